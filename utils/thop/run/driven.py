"""What the driver of a training run is given: the copy, its forward, and a way to a function of its outputs.

That function, a loss as a rule, is run on shapes. Where it decides by values, as a loss does that assigns objects by
scores, it alone is run with values: on made-up ones in the outputs' place, whose gradients go back as shapes.
"""

import traceback
from contextlib import nullcontext
from typing import Any, Callable, Dict, List, Tuple

import torch
from torch import Tensor, nn

from .dispatch import ShapeMode
from .nested import map_tensors, tensors_in
from .shape_tensor import NeedsValues, in_few_words, is_for_lack_of_values, lacks_values, shape_tensor

_LARGE = 2**28
"""Elements that a constant may have while the function of the outputs runs: its targets, masks among them, are such."""
_DEVIATION = 0.1  # of made-up values: as untrained networks give out, and small enough for any exponential


class Driven:
    """A run that somebody drives.

    model: the copy; forward: runs it on its inputs, or what a function makes of each, under autocast if that is asked
    for, or without; also: copies of what else was given, with its values; why: what the
    function of the outputs has stumbled over on shapes, empty while it runs on them.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        also: Tuple[Any, ...] = (),
        mode: Any = None,
        around: Callable[[], Any] = nullcontext,
    ) -> None:
        self.model, self.forward, self.also = model, forward, also
        self.mode, self.around = mode, around
        self.why = ""

    def of_outputs(self, function: Callable[[Any], Tensor], out: Any, forget: Callable[[], None]) -> Tensor:
        """Call a function that makes one number of the outputs, under the autocast of the run.

        ``forget`` is called where it has to be called again, with values. Raises what the function raises.
        """
        mode: ShapeMode = self.mode
        with self.around():
            if not self.why:
                mode.largest_constant, before = _LARGE, mode.largest_constant
                try:
                    found = function(out)
                    if not mode.failure:
                        return found
                    self.why = mode.failure
                except Exception as error:
                    self.why = mode.failure or (in_few_words(error) if is_for_lack_of_values(error) else "")
                    if not self.why:
                        raise
                    traceback.clear_frames(error.__traceback__)  # they hold tensors of the run
                finally:
                    mode.largest_constant = before
                mode.failure = ""
                forget()
            tensors = tensors_in((out,))
            places = {id(tensor): i for i, tensor in enumerate(tensors)}

            def on(values: List[Tensor]) -> Tensor:
                return function(map_tensors(out, lambda tensor: values[places[id(tensor)]]))

            number: Tensor = _WithValues.apply(self, on, *tensors)  # type: ignore[no-untyped-call]
            return number


class _WithValues(torch.autograd.Function):
    """A function of the outputs, run with values in the midst of a run on shapes."""

    @staticmethod
    def forward(ctx: Any, driven: Driven, function: Callable[[List[Tensor]], Tensor], *tensors: Tensor) -> Tensor:
        mode = driven.mode
        with mode.on_values(), torch.enable_grad():  # type: ignore[no-untyped-call]
            with mode.unheard():  # the outputs, which are alive, are these
                ctx.values = [_made_up(tensor) for tensor in tensors]
            ctx.mode, ctx.number = mode, function(ctx.values)
        return shape_tensor((), (), ctx.number.dtype, ctx.number.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        mode, trained = ctx.mode, [value for value in ctx.values if value.requires_grad]
        with mode.on_values():
            found = list(torch.autograd.grad(ctx.number, trained, allow_unused=True))
        del trained, ctx.number
        shapes: List[Any] = [None, None]
        for value in ctx.values:
            made = found.pop(0) if value.requires_grad else None
            shapes.append(made)
            if made is not None:
                facts: Tuple[Any, ...] = made.shape, made.stride(), made.dtype, made.device
                shapes[-1] = made = None  # it is gone before what stands for it comes
                shapes[-1] = _heard(mode, shape_tensor(*facts))
        del ctx.values
        return tuple(shapes)


def _made_up(tensor: Tensor) -> Tensor:
    """Values for an output without any, the same in each process."""
    if not lacks_values(tensor):
        return tensor.detach().requires_grad_(tensor.requires_grad)
    if tensor.dtype.is_complex:
        raise NeedsValues("an output with complex numbers")
    found = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    if not tensor.is_floating_point():
        return found.zero_()
    found.normal_(0.0, _DEVIATION, generator=torch.Generator(device=tensor.device).manual_seed(0))
    return found.requires_grad_(tensor.requires_grad)


def _heard(mode: ShapeMode, tensor: Tensor) -> Tensor:
    """Let the observer hear that a tensor has come to be."""
    mode.own(tensor)
    kwargs: Dict[str, Any] = {"dtype": tensor.dtype}
    mode.report(torch.ops.aten.empty_strided.default, (tensor.shape, tensor.stride()), kwargs, tensor)
    return tensor


Drive = Callable[[Driven], Any]
