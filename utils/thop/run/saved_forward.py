"""A forward that somebody has kept beside the module, as accelerate's and LoRA's hooks do."""

from typing import Any, Callable

from torch import nn

from .shape_tensor import THREAD


class SavedForward:
    """A forward that somebody has kept: it is watched like a call of its module, unless it is part of one.

    ``m._old_forward = m.forward; m.forward = wrapped``, where ``wrapped`` comes back to it, is the latter.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if THREAD.run is None:
            return self.function(module, *args, **kwargs)
        return THREAD.run.calls.saved_forward(module, self.function, args, kwargs)
