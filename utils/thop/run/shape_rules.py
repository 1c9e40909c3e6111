"""Shape rules: what ATen operators return, worked out from shapes alone.

PyTorch's own meta kernels can do this too, but for the operators that detection networks are made of they take
several times as long: batch normalisation's is written in Python. What has no rule here goes through PyTorch's kernel.
Where no operand lacks values, PyTorch computes the result itself: a rule is asked about tensors without memory, or on
the meta device.
"""

from functools import lru_cache
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional

from .shape_tensor import META, ShapeTensor, lacks_values, shape_tensor
from .torch_private import no_torch_dispatch

ShapeRule = Callable[..., Any]
SHAPE_RULES: Dict[Any, ShapeRule] = {}


def _shape_rule(*operators: str) -> Callable[[ShapeRule], ShapeRule]:
    """Register a rule for ATen operators, those that this torch has.

    A rule takes the operator's arguments and returns its outputs as tensors without memory, or NotImplemented for a
    case that is better left to PyTorch. Outputs must have PyTorch's shape, dtype and strides: hence most rules speak
    for contiguous tensors only.
    """

    def register(rule: ShapeRule) -> ShapeRule:
        for operator in operators:
            name, _, overload = operator.partition(".")
            packet = getattr(torch.ops.aten, name, None)
            if packet is not None and hasattr(packet, overload or "default"):
                SHAPE_RULES[getattr(packet, overload or "default")] = rule
        return rule

    return register


_LAST = torch.channels_last


def _plain(x: Tensor) -> bool:
    """Say whether a tensor lacks values and is contiguous, so that a result is contiguous too."""
    return lacks_values(x) and x.is_contiguous()


def _is_channels_last(x: Tensor) -> bool:
    """Say whether the strides are those of channels_last and could not be those of a contiguous tensor."""
    if x.is_contiguous() or x.dim() not in (4, 5):
        return False
    least, stride = 0, x.stride()
    for axis in (1, *reversed(range(2, x.dim())), 0):
        if x.shape[axis] == 0 or stride[axis] < least or (axis == 0 and least == stride[1]):
            return False
        least = stride[axis] * max(x.shape[axis], 1)
    return True


def empty(
    shape: Sequence[int], like: Tensor, dtype: Optional[torch.dtype] = None, channels_last: bool = False
) -> Tensor:
    """Make a tensor without memory, contiguous or channels_last, on the device of ``like``."""
    if type(like) is ShapeTensor and not channels_last:
        return shape_tensor(shape, None, dtype or like.dtype, like.device)
    strides = channels_last_strides(shape) if channels_last else contiguous_strides(shape)
    return strided(shape, strides, like, dtype)


def strided(shape: Sequence[int], strides: Sequence[int], like: Tensor, dtype: Optional[torch.dtype] = None) -> Tensor:
    """Make a tensor without memory; one on the meta device where ``like`` is on it, as while a model is built."""
    dtype = dtype or like.dtype
    if type(like) is not ShapeTensor and like.is_meta:
        return torch.empty_strided(shape, strides, dtype=dtype, device=META)
    return shape_tensor(shape, strides, dtype, like.device)


def channels_last_strides(shape: Sequence[int]) -> List[int]:
    """Elements from one index to the next where the channels of one place lie side by side."""
    strides, step = [1] * len(shape), 1
    for axis in (1, *reversed(range(2, len(shape))), 0):
        strides[axis] = step
        step *= shape[axis] or 1
    return strides


def contiguous_strides(shape: Sequence[int]) -> List[int]:
    """Elements from one index to the next along each axis."""
    strides = [1] * len(shape)
    step = 1
    for axis in range(len(shape) - 1, 0, -1):
        step *= shape[axis] or 1
        strides[axis - 1] = step
    return strides


def _per_axis(value: Any, axes: int) -> Sequence[int]:
    """One number, alone or in a list, stands for all axes."""
    if isinstance(value, int):
        return (value,) * axes
    return value if len(value) == axes else list(value) * axes


def _windows(sizes: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any) -> List[int]:
    """Count the places of a sliding window along each axis."""
    axes = len(sizes)
    per_axis = [_per_axis(value, axes) for value in (kernel, stride, padding, dilation)]
    return [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in zip(sizes, *per_axis)]


def _unwindows(sizes: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any, extra: Any) -> List[int]:
    """Give the size along each axis in which a window has so many places, the inverse of ``_windows``."""
    axes = len(sizes)
    k, s, p, d, e = [_per_axis(value, axes) for value in (kernel, stride, padding, dilation, extra)]
    return [(sizes[i] - 1) * s[i] - 2 * p[i] + d[i] * (k[i] - 1) + e[i] + 1 for i in range(axes)]


@_shape_rule("convolution")
def _convolution(
    x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, *rest: Any
) -> Any:
    """One output for each place of the filter, or the size that has so many places where it is transposed.

    ``rest`` is output_padding and groups. The result is channels_last if the input or the weight is.
    """
    x_shape, weight_shape = x.shape, weight.shape
    if not (lacks_values(x) or lacks_values(weight)) or x.dtype is not weight.dtype:
        return NotImplemented
    if len(x_shape) != len(weight_shape):
        return NotImplemented
    output_padding, groups = rest
    batch, given, *sizes = x_shape
    if transposed:
        read, channels, *kernel = weight_shape
        channels *= groups
        out = _unwindows(sizes, kernel, stride, padding, dilation, output_padding)
    else:
        channels, read, *kernel = weight_shape
        read *= groups
        out = _windows(sizes, kernel, stride, padding, dilation)
    if min(out) < 1 or given != read:
        return NotImplemented
    last = _is_channels_last(x) or _is_channels_last(weight)
    if last and len(sizes) == 3:  # which of PyTorch's 3-d convolutions keep that layout differs from case to case
        return NotImplemented
    return empty((batch, channels, *out), x, channels_last=last)


@_shape_rule("native_batch_norm")
def _native_batch_norm(x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *rest: Any) -> Any:
    """The statistics that training saves are as precise as the weight; in evaluation mode they are empty."""
    if not lacks_values(x) or (training and not _is_precise(weight)):
        return NotImplemented
    saved = _without_elements(x.dtype if weight is None else weight.dtype)
    saved, other = [empty((x.shape[1],), weight) for _ in range(2)] if training else (saved, saved)
    return empty(x.shape, x, channels_last=_is_channels_last(x)), saved, other


@_shape_rule("native_batch_norm_backward")
def _native_batch_norm_backward(gradient: Tensor, x: Tensor, weight: Any, *rest: Any) -> Any:
    """One for each element of the input, and two for each channel: as far as they are asked for, the last argument."""
    if not lacks_values(x) or not _is_precise(weight):
        return NotImplemented
    found = (
        empty(x.shape, x, channels_last=_is_channels_last(x)),
        empty(weight.shape, weight),
        empty(weight.shape, weight),
    )
    return tuple(each if asked else None for each, asked in zip(found, rest[-1]))


@_shape_rule("native_layer_norm_backward")
def _native_layer_norm_backward(gradient: Tensor, x: Tensor, axes: Any, mean: Any, deviation: Any, *rest: Any) -> Any:
    """The same, of a weight as large as the axes that were normalised."""
    weight, bias, asked = rest
    if not lacks_values(x) or bias is None or not _is_precise(weight) or x.dtype is not weight.dtype:
        return NotImplemented
    found = empty(x.shape, x), empty(weight.shape, weight), empty(weight.shape, weight)
    return tuple(each if wanted else None for each, wanted in zip(found, asked))


def _is_precise(weight: Optional[Tensor]) -> bool:
    """Say whether statistics have the type of a weight, whatever the input has: on a GPU those of a half one do not."""
    return weight is not None and lacks_values(weight) and weight.dtype in (torch.float32, torch.float64)


@_shape_rule(
    "_foreach_add_.Scalar", "_foreach_mul_.Scalar", "_foreach_div_.ScalarList", "_foreach_lerp_.Scalar",
    "_foreach_addcmul_.Scalar", "_foreach_addcdiv_.ScalarList", "_foreach_addcdiv_.Scalar",
)  # fmt: skip
def _each_in_place(first: Sequence[Tensor], *others: Any) -> Any:
    """What an optimizer does to all parameters at once; it returns nothing."""
    lists = [other for other in others if isinstance(other, (list, tuple)) and isinstance(other[0], Tensor)]
    alike = all([t.shape for t in other] == [t.shape for t in first] for other in lists)
    return None if alike and all(map(lacks_values, first)) else NotImplemented


@_shape_rule("_foreach_sqrt")
def _each_root(tensors: Sequence[Tensor]) -> Any:
    return [_elementwise_result(t.shape, (t,), t) for t in tensors] if all(map(_is_float, tensors)) else NotImplemented


def _is_float(x: Tensor) -> bool:
    return lacks_values(x) and x.is_floating_point()


@lru_cache(maxsize=None)
def _without_elements(dtype: torch.dtype) -> Tensor:
    """Make a tensor that nobody looks at: a real one, so that nothing of a run is kept."""
    return torch.empty(0, dtype=dtype)


def _is_dense(x: Tensor) -> bool:
    """Say whether the elements lie side by side in some order of the axes, none of them twice."""
    step = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape) if size > 1):
        if stride != step:
            return False
        step *= size
    return True


def _elementwise_result(shape: Sequence[int], operands: Sequence[Tensor], like: Tensor) -> Tensor:
    """Make the result of an element-wise operator, laid out as PyTorch's TensorIterator lays it out."""
    first = operands[0]
    if first.is_contiguous() and (len(operands) == 1 or all(t.is_contiguous() and t.shape == shape for t in operands)):
        return empty(shape, like)
    if len(shape) == 4 and all(t.shape == shape and t.is_contiguous(memory_format=_LAST) for t in operands):
        return empty(shape, like, channels_last=True)  # whatever the stride of an axis of one element is
    if len(operands) == 1 and _is_dense(first):
        strides: Sequence[int] = first.stride()
    else:
        strides = _elementwise_strides(tuple(shape), tuple([(t.shape, t.stride()) for t in operands]))
    return strided(shape, strides, like)


@lru_cache(maxsize=1024)
def _elementwise_strides(
    shape: Tuple[int, ...], operands: Tuple[Tuple[Sequence[int], Sequence[int]], ...]
) -> Sequence[int]:
    """Lay a result out by its operands' shapes and strides where these do not simply pass one layout on.

    The axes are sorted by the operands' strides, the first operand that tells two axes apart deciding; axes that are
    broadcast tell nothing.
    """
    axes = len(shape)
    strides = [
        [0] * (axes - len(own))
        + [0 if n == 1 and m != 1 else s for n, m, s in zip(own, shape[axes - len(own) :], steps)]
        for own, steps in operands
    ]
    order = list(reversed(range(axes)))
    for i in range(1, axes):
        moving = i
        for other in reversed(range(i)):
            verdict = _faster_axis(order[other], order[moving], strides, shape)
            if verdict > 0:
                order[other], order[moving] = order[moving], order[other]
                moving = other
            elif verdict < 0:
                break
    result, step = [0] * axes, 1
    for axis in order:
        result[axis] = step
        step *= max(shape[axis], 1)
    return result


def _faster_axis(a: int, b: int, strides: Sequence[Sequence[int]], shape: Sequence[int]) -> int:
    """Compare two axes: negative where ``a`` is to vary faster, positive where ``b`` is, 0 where nothing tells."""
    for stride in strides:
        if stride[a] == 0 or stride[b] == 0:
            continue
        if stride[a] != stride[b]:
            return -1 if stride[a] < stride[b] else 1
        if shape[a] > shape[b]:
            return 1
    return 0


@_shape_rule(
    "silu", "sigmoid", "relu", "tanh", "hardswish", "hardsigmoid", "leaky_relu", "hardtanh", "gelu", "mish", "elu",
    "softplus", "exp", "sqrt", "rsqrt", "neg", "abs", "pow.Tensor_Scalar", "clamp", "clamp_min", "clamp_max",
)  # fmt: skip
def _elementwise(x: Tensor, *rest: Any, **options: Any) -> Any:
    return _elementwise_result(x.shape, (x,), x) if _is_float(x) else NotImplemented


@_shape_rule(
    "silu_backward", "sigmoid_backward", "tanh_backward", "hardswish_backward", "hardsigmoid_backward",
    "hardtanh_backward", "gelu_backward", "mish_backward",
)  # fmt: skip
def _elementwise_backward(gradient: Tensor, x: Tensor, *rest: Any, **options: Any) -> Any:
    """One derivative for each element of the input, or of the output, that a gradient comes in for."""
    alike = gradient.shape == x.shape and gradient.dtype is x.dtype and x.is_floating_point()
    if not alike or not (lacks_values(gradient) and lacks_values(x)):
        return NotImplemented
    return _elementwise_result(x.shape, (gradient, x), gradient)


@_shape_rule("threshold_backward", "leaky_relu_backward")
def _rectified_backward(gradient: Tensor, x: Tensor, *rest: Any) -> Any:
    """The same, but PyTorch lays the result out as the input first."""
    return _elementwise_backward(x, gradient)


@_shape_rule("zeros_like")
def _zeros_like(x: Tensor, **options: Any) -> Any:
    asked = {name for name, value in options.items() if value}
    keeps = asked <= {"memory_format"} and options.get("memory_format") in (None, torch.preserve_format)
    return _elementwise_result(x.shape, (x,), x) if keeps and lacks_values(x) else NotImplemented


@_shape_rule("clone")
def _clone(x: Tensor, memory_format: Optional[torch.memory_format] = None) -> Any:
    if not lacks_values(x) or not (x.is_contiguous() or memory_format is torch.contiguous_format):
        return NotImplemented
    kept = memory_format in (None, torch.contiguous_format, torch.preserve_format)
    return empty(x.shape, x) if kept else NotImplemented


@_shape_rule("silu_", "sigmoid_", "relu_", "tanh_", "hardswish_", "hardsigmoid_", "leaky_relu_", "hardtanh_", "elu_")
def _elementwise_in_place(x: Tensor, *rest: Any) -> Any:
    return x if lacks_values(x) else NotImplemented


@_shape_rule("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor")
def _arithmetic(x: Any, y: Any, **options: Any) -> Any:
    """Tensors of one floating dtype, broadcast; numbers, and tensors without axes, take part by value alone."""
    if not isinstance(x, Tensor) or not lacks_values(x) or not x.is_floating_point() or options.get("rounding_mode"):
        return NotImplemented
    if isinstance(y, (int, float)):
        return _elementwise_result(x.shape, (x,), x)
    if not isinstance(y, Tensor) or not y.is_floating_point() or x.dim() == 0:
        return NotImplemented
    if y.dim() == 0:
        return _elementwise_result(x.shape, (x,), x)
    if y.dtype is not x.dtype:
        return NotImplemented
    shape = x.shape if x.shape == y.shape else _broadcast(x.shape, y.shape)
    return NotImplemented if shape is None else _elementwise_result(shape, (x, y), x)


@_shape_rule("add_.Tensor")
def _added_in_place(x: Tensor, y: Any, **factors: Any) -> Any:
    """The result has the tensor's shape, dtype and layout, which what is added may not widen."""
    fits = isinstance(y, Tensor) and (y.shape == x.shape or _broadcast(x.shape, y.shape) == x.shape)
    return x if fits and _is_float(x) and y.is_floating_point() else NotImplemented


def _broadcast(a: Sequence[int], b: Sequence[int]) -> Optional[Sequence[int]]:
    """Return the shape that two shapes broadcast to, or None."""
    longer, shorter = (list(a), list(b)) if len(a) >= len(b) else (list(b), list(a))
    shorter = [1] * (len(longer) - len(shorter)) + shorter
    if any(m != n and 1 not in (m, n) for m, n in zip(longer, shorter)):
        return None
    return torch.Size([n if m == 1 else m for m, n in zip(longer, shorter)])


@_shape_rule("cat")
def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Sizes add up along one axis and are equal along all others; channels_last is left to PyTorch."""
    first = tensors[0]
    dtype, joined = first.dtype, list(first.shape)
    if not -len(joined) <= dim < len(joined):
        return NotImplemented
    length = joined[dim] = 0
    for tensor in tensors:
        if not lacks_values(tensor) or tensor.dtype is not dtype or _is_channels_last(tensor):
            return NotImplemented
        shape = list(tensor.shape)
        if len(shape) != len(joined):
            return NotImplemented
        length, shape[dim] = length + shape[dim], 0
        if shape != joined:
            return NotImplemented
    joined[dim] = length
    return empty(joined, first)


@_shape_rule("stack")
def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    first = tensors[0]
    alike = all(lacks_values(t) and t.dtype is first.dtype and t.shape == first.shape for t in tensors)
    if not alike or first.dim() > 2:
        return NotImplemented
    dim %= first.dim() + 1
    return empty((*first.shape[:dim], len(tensors), *first.shape[dim:]), first)


@_shape_rule("max_pool2d_with_indices")
def _max_pool2d(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, *ceil: bool) -> Any:
    """One maximum, and its index, for each place of the window."""
    if any(ceil) or x.dim() != 4 or not _plain(x):
        return NotImplemented
    out = _windows(x.shape[2:], kernel, stride or kernel, padding, dilation)
    if min(out) < 1:
        return NotImplemented
    shape = (*x.shape[:2], *out)
    return empty(shape, x), empty(shape, x, torch.int64)


@_shape_rule("native_layer_norm")
def _native_layer_norm(x: Tensor, axes: Sequence[int], weight: Any, bias: Any, eps: float) -> Any:
    """The result is dense whatever the input was; mean and deviation keep the axes that were not normalised."""
    given = [t for t in (weight, bias) if t is not None]
    fits = tuple(x.shape[x.dim() - len(axes) :]) == tuple(axes) and all(t.dtype is x.dtype for t in given)
    if not lacks_values(x) or not fits or not axes or x.dtype not in (torch.float32, torch.float64):
        return NotImplemented
    statistics = (*x.shape[: x.dim() - len(axes)], *[1] * len(axes))
    return empty(x.shape, x), empty(statistics, x), empty(statistics, x)


@_shape_rule("mm", "bmm")
def _matrix_product(a: Tensor, b: Tensor) -> Any:
    """(..., N, M) by (..., M, P), the same axes before in both."""
    like = next((t for t in (a, b) if lacks_values(t)), None)
    alike = a.dim() == b.dim() and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2] and a.dtype is b.dtype
    return empty((*a.shape[:-1], b.shape[-1]), like) if alike and like is not None else NotImplemented


@_shape_rule("addmm")
def _sum_and_matrix_product(c: Tensor, a: Tensor, b: Tensor, **factors: Any) -> Any:
    """c + a @ b, where c is broadcast: (N, M) by (M, P)."""
    if not a.dim() == b.dim() == 2 or c.dtype is not a.dtype or c.dim() > 2:
        return NotImplemented
    shape = (a.shape[0], b.shape[1])
    return _matrix_product(a, b) if _broadcast(shape, c.shape) == shape else NotImplemented


@_shape_rule("_softmax", "_safe_softmax")
def _softmax(x: Tensor, dim: int, *rest: Any) -> Any:
    """Laid out as a dense tensor; ``rest`` may ask for another dtype."""
    if any(rest) or not _plain(x) or not x.is_floating_point() or not -x.dim() <= dim < x.dim():
        return NotImplemented
    return empty(x.shape, x)


@_shape_rule("mean.dim", "sum.dim_IntList", "amax")
def _reduced(x: Tensor, axes: Any = None, keep: bool = False, **options: Any) -> Any:
    """One number for all elements along some axes, which stay as one element or go."""
    if not _plain(x) or not x.is_floating_point() or not axes or any(option is not None for option in options.values()):
        return NotImplemented
    gone = {axis % x.dim() for axis in axes} if x.dim() else {0}
    if len(gone) < len(axes) or not all(-x.dim() <= axis < x.dim() for axis in axes) or 0 in x.shape:
        return NotImplemented
    return empty([1 if i in gone else n for i, n in enumerate(x.shape) if keep or i not in gone], x)


@_shape_rule("linalg_vector_norm")
def _vector_norm(x: Tensor, order: Any = 2, axes: Any = None, keep: bool = False, **options: Any) -> Any:
    """A reduction too, over one axis or several."""
    return _reduced(x, [axes] if isinstance(axes, int) else axes, keep, **options)


@_shape_rule("index.Tensor")
def _looked_up(x: Tensor, indices: Sequence[Optional[Tensor]]) -> Any:
    """The rows of a table that a tensor of numbers names."""
    rows = indices[0]
    if len(indices) > 1 or rows is None or rows.dtype is not torch.int64 or not (_plain(x) and rows.is_contiguous()):
        return NotImplemented
    return empty((*rows.shape, *x.shape[1:]), x)


@_shape_rule("eq.Scalar", "ne.Scalar")
def _compared(x: Tensor, number: Any) -> Any:
    return empty(x.shape, x, torch.bool) if _plain(x) else NotImplemented


@_shape_rule("roll")
def _rolled(x: Tensor, shifts: Any, axes: Any = ()) -> Any:
    """Elements change places."""
    return empty(x.shape, x) if _plain(x) and len(shifts) == len(axes) and x.numel() else NotImplemented


@_shape_rule("masked_fill.Scalar")
def _masked_fill(x: Tensor, mask: Tensor, value: Any) -> Any:
    """Laid out as the tensor, if the mask is broadcast to it."""
    fits = mask.dtype is torch.bool and _broadcast(x.shape, mask.shape) == x.shape
    return empty(x.shape, x) if _plain(x) and fits and not isinstance(value, complex) else NotImplemented


@lru_cache(maxsize=None)
def _attention_keeps_order() -> bool:
    """Ask the kernel whether its result has the queries' order of axes; before torch 2.5 its heads come third."""
    with no_torch_dispatch():
        x = torch.zeros(1, 2, 3, 4)
        return functional.scaled_dot_product_attention(x, x, x).stride() == x.stride()


@_shape_rule("scaled_dot_product_attention")
def attention_rule(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Any:
    """The result has the layout that the fused kernel gives it: the order of axes that the queries have, but dense."""
    if not any(map(lacks_values, (query, key, value))):
        return NotImplemented
    shape = (*query.shape[:-1], value.shape[-1])
    like = next(filter(lacks_values, (query, key, value)))
    if query.shape != shape:
        return empty(shape, like)
    steps = query.stride()
    if query.dim() == 4 and query.device.type == "cpu" and not _attention_keeps_order():
        heads, length, width = shape[1:]
        return strided(shape, (heads * length * width, width, heads * width, 1), like)
    return strided(shape, steps if _is_dense(query) else _elementwise_strides(shape, ((shape, steps),)), like)


@_shape_rule("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def _recurrent(x: Tensor, states: Any, weights: Any, biases: bool, layers: int, *rest: Any) -> Any:
    """Outputs of all steps, and the last states; ``rest`` is dropout, train, bidirectional, batch_first."""
    if not any(map(lacks_values, (x, *weights))):
        return NotImplemented
    *_, bidirectional, batch_first = rest
    batch, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
    width, last = _recurrent_results(x, states, batch, layers, bidirectional)
    if batch_first:  # it is computed with the steps first
        return (strided((batch, steps, width), (width, batch * width, 1), x), *last)
    return (empty((steps, batch, width), x), *last)


@_shape_rule("lstm.data", "gru.data", "rnn_tanh.data", "rnn_relu.data")
def _recurrent_packed(data: Tensor, sizes: Tensor, states: Any, weights: Any, biases: bool, *rest: Any) -> Any:
    """The same for sequences that are packed: one row of data for each step of each."""
    if not any(map(lacks_values, (data, *weights))):
        return NotImplemented
    layers, _, _, bidirectional = rest
    batch = (states[0] if isinstance(states, (list, tuple)) else states).shape[1]
    width, last = _recurrent_results(data, states, batch, layers, bidirectional)
    return (empty((data.shape[0], width), data), *last)


def _recurrent_results(x: Tensor, states: Any, batch: int, layers: int, bidirectional: bool) -> Any:
    """Return the width of an output, all directions together, and the last states, sized like the first ones."""
    given = states if isinstance(states, (list, tuple)) else [states]
    directions = 2 if bidirectional else 1
    last = [empty((layers * directions, batch, state.shape[-1]), x) for state in given]
    return given[0].shape[-1] * directions, last


@_shape_rule("upsample_nearest2d")
def _upsample_nearest2d(x: Tensor, size: Any, *scales: Any) -> Any:
    return empty((*x.shape[:2], *size), x) if x.dim() == 4 and _plain(x) else NotImplemented


_PAGE = 4096


@_shape_rule("mkldnn_rnn_layer")
def _recurrent_layer(x: Tensor, w1: Tensor, w2: Tensor, w3: Any, w4: Any, h: Tensor, c: Tensor, *rest: Any) -> Any:
    """Outputs, the last states, and what the library keeps for the backward: an LSTM in a workspace of whole pages."""
    _, _, mode, hidden, *_ = rest
    if mode != 2 or x.dtype is not torch.float32 or not lacks_values(x):
        return NotImplemented
    keeps = torch.is_grad_enabled()  # whatever train says
    steps, batch, features = x.shape  # of one layer in one direction, in this order whatever the module was given
    kept = empty((_lstm_workspace(steps, batch, features, hidden) if keeps else 0,), x, torch.uint8)
    return empty((steps, batch, hidden), x), empty(h.shape, x), empty(c.shape, x), kept


def _lstm_workspace(steps: int, batch: int, features: int, hidden: int) -> int:
    """Bytes of gates, hidden values, and states at both ends of the layer, of it and of its gradients.

    Rows are filled up to 64 bytes, and beyond where they would fall on the same lines of a cache.
    """

    def filled(row: int) -> int:
        row = -(-row // 16) * 16
        return row if row % 256 else row + 16

    ends, widest = 2 * (steps + 1), filled(max(features, hidden))
    rows = [(steps, filled(4 * hidden)), (steps, filled(hidden)), *[(ends, hidden)] * 2]
    rows += [(ends, widest)] * _widest_states()
    return sum(-(-4 * count * batch * row // _PAGE) * _PAGE for count, row in rows)


@lru_cache(maxsize=None)
def _widest_states() -> int:
    """Ask the library with the least LSTM how many states as wide as the widest it keeps: 3 in torch 2.14, 5 in 2.4."""
    with no_torch_dispatch(), torch.enable_grad():
        state, gates = (torch.zeros(size, 1, dtype=torch.float32, device="cpu") for size in (1, 4))
        how: Tuple[Any, ...] = False, [], 2, 1, 1, True, False, False, True
        operands = state[None], gates, gates, gates[:, 0], gates[:, 0], state, state
        kept = torch.ops.aten.mkldnn_rnn_layer(*operands, *how)[3]
    return kept.numel() // _PAGE - 4  # a page for each part
