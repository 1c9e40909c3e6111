"""What a run reports to."""

from typing import Any, Dict, Tuple

from torch import nn


class Observer:
    """Hears of every module that starts and ends, and of every ATen operator in between.

    The methods do nothing here; a ledger overrides those that it needs. Nothing of the run may be kept: neither
    modules nor tensors.
    """

    def begin(self, arguments: Tuple[Any, ...]) -> None:
        """The run starts, with these arguments, those by keyword in a dictionary at the end."""

    def enter(self, module: nn.Module) -> Any:
        """A module's forward starts. What is returned comes back in ``leave`` or ``abandon``."""

    def leave(self, token: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        """The forward that began with ``token`` has returned ``out``."""

    def abandon(self, token: Any) -> None:
        """The forward that began with ``token`` has raised."""

    def layer_of_one_operator(self, module: nn.Module, x: Any, func: Any, arguments: Tuple[Any, ...], out: Any) -> None:
        """A layer has been called with ``x`` and has come to one operator, whose result (or first result) is its own.

        It stands for ``enter``, ``operator`` and ``leave``, which a ledger may do in fewer steps.
        """
        token = self.enter(module)
        self.operator(func, arguments, {}, out)
        self.leave(token, (x,), {}, out[0] if isinstance(out, tuple) else out)

    def operator(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        """An ATen operator has run."""

    def taken_apart(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        """An ATen operator has run as others, which have been heard of."""

    def hands_out(self, what: str) -> None:
        """Values of a tensor have left PyTorch, as ``what``: what is done with them nobody sees."""

    def end(self, output: Any) -> None:
        """The run has come to its end, with what the model returned; the copy is still there."""
