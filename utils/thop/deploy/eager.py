"""What PyTorch moves in eager mode, and the passes that it adds to its kernels on CUDA.

What autocast casts has been counted in the run itself, as copies.
"""

from typing import Iterator, NamedTuple

from ..count.record import OperatorCall, Recording, View

_HALF = 2
_POINTWISE_LAYOUT = 0.15  # of the layout changes around a 1 x 1 convolution, which mostly runs as a matrix product


class Moved(NamedTuple):
    """Bytes of one step: those of its kernel, and those of the passes around it."""

    kernel: float
    passes: float


def moved_in_eager(flow: Recording, precision: str, adds_passes: bool) -> Iterator[Moved]:
    """Yield what each step of a run moves in a precision; "float16" is the model after ``half()``.

    Under "amp" a run that could not be made so is taken for one in float16.
    """
    halved = precision == "float16" or (precision == "amp" and not flow.amp)
    for step in flow.steps:
        kernel = sum(operand.elements * _size(operand, halved) for operand in (*step.reads, *step.writes))
        yield Moved(kernel, _added_passes(step, halved) if adds_passes else 0.0)


def _size(operand: View, halved: bool) -> int:
    """Bytes of an element."""
    return _HALF if halved and operand.dtype.is_floating_point else operand.itemsize


def _added_passes(step: OperatorCall, halved: bool) -> float:
    """Bytes of what CUDA's libraries do around their kernels: bias, layout, copies."""
    if step.name == "aten::native_layer_norm":
        x = step.reads[0]
        return 0.0 if x.dense else 2.0 * x.elements * _size(x, halved)
    if step.geometry is None or "conv" not in step.name or not step.reads or not step.writes:
        return 0.0
    x, out = step.reads[0], step.writes[0]
    with_bias = any(len(operand.shape) == 1 for operand in step.reads[1:])
    bias = 2.0 * out.elements * _size(out, halved) if with_bias else 0.0
    if step.geometry.depthwise or x.channels_last:
        return bias
    share = _POINTWISE_LAYOUT if set(step.geometry.kernel) == {1} else 1.0
    return bias + share * 2.0 * (x.elements + out.elements) * _size(x, halved)
