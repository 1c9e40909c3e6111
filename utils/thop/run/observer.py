"""What a run reports to."""

from typing import Any, Dict, Tuple

from torch import nn


class Observer:
    """Hears of every module that starts and ends, and of every ATen operator in between.

    The methods do nothing here; a ledger overrides those that it needs. Nothing of the run may be kept: neither
    modules nor tensors.
    """

    attention_is_one_operator = False
    """Whether attention is reported as ``scaled_dot_product_attention``, not as the operators it falls apart into."""

    def begin(self, arguments: Tuple[Any, ...]) -> None:
        """The run starts, with these arguments."""

    def enter(self, module: nn.Module) -> Any:
        """A module's forward starts. What is returned comes back in ``leave`` or ``abandon``."""

    def leave(self, token: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        """The forward that began with ``token`` has returned ``out``."""

    def abandon(self, token: Any) -> None:
        """The forward that began with ``token`` has raised."""

    def operator(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        """An ATen operator has run."""

    def end(self) -> None:
        """The run has come to its end; the copy is still there."""
