"""Run a copy of a model once, under the eyes of an observer, and leave the model itself untouched.

The copy is run on shapes alone, as meta tensors under a dispatch mode, or for real where shapes are not enough. The
observer hears of every module that starts and ends, and of every ATen operator in between.
"""

import copy
import random
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import UninitializedTensorMixin
from torch.utils._pytree import tree_flatten, tree_map

from .shadow import Copier, Replica

try:
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
except ImportError:  # torch before 1.13: every run is a real one, and the observer hears of modules only

    class TorchDispatchMode:  # type: ignore[no-redef]
        def __enter__(self) -> "TorchDispatchMode":
            return self

        def __exit__(self, *error: Any) -> None:
            return None

    TorchFunctionMode = TorchDispatchMode  # type: ignore[assignment,misc]


CAN_RUN_ON_SHAPES = hasattr(TorchDispatchMode, "__torch_dispatch__")


class Observer:
    """What a run reports to. The methods do nothing here; a ledger overrides those that it needs."""

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


@dataclass
class Run:
    """How a run went: what the model returned, and in which mode it ran.

    mode: "shape" on meta tensors, "real" for a forward pass with arithmetic; why: what the shape run stumbled over.
    """

    output: Any
    mode: str
    why: str = ""


class ShapeRunFailed(RuntimeError):
    """The model needs values, or something else that meta tensors can't give."""


def run(model: nn.Module, inputs: Sequence[Any], observe: Callable[[Replica], Observer], on_shapes: bool = True) -> Run:
    """Run a copy of ``model`` on copies of ``inputs``, in evaluation mode and without gradients.

    It is run on shapes alone where that is possible, and for real otherwise or where ``on_shapes`` is False.
    ``observe`` is called with each copy and returns the observer of its run. An exception of the model's own forward
    passes through; the model, the inputs and the state of the random generators are as before in any case.
    """
    stumbled: Exception = ShapeRunFailed("a real run was asked for")
    if on_shapes:
        try:
            if not CAN_RUN_ON_SHAPES:
                raise ShapeRunFailed(f"torch {torch.__version__} has no dispatch modes")
            return Run(_run_copy(model, inputs, observe, _meta_copy, _ShapeMode), "shape")
        except Exception as error:
            stumbled = error
        if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            raise stumbled
    return Run(_run_copy(model, inputs, observe, _real_copy, _OperatorMode), "real", in_few_words(stumbled))


def in_few_words(error: BaseException) -> str:
    """Describe an exception in one short line."""
    first_line = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first_line}"[:160]


def _run_copy(
    model: nn.Module,
    inputs: Sequence[Any],
    observe: Callable[[Replica], Observer],
    copy_tensor: Callable[[Tensor], Tensor],
    operator_mode: Callable[[Observer], "_OperatorMode"],
) -> Any:
    copier = Copier(copy_tensor)
    replica = Replica(copier.value(model), copier.unregistered)
    arguments = copier.value(tuple(inputs))
    _settle(replica.model)
    observer = observe(replica)
    _watch(replica, observer)
    mode = operator_mode(observer)
    observer.begin(arguments)
    attention: Any = _AttentionMode(mode) if observer.attention_is_one_operator else nullcontext()
    with _random_state_kept(), torch.no_grad(), mode, attention:
        output = replica.model(*arguments)
    mode.check()
    return output


class _OperatorMode(TorchDispatchMode):
    """Runs every ATen operator as it is and tells the observer."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observe: Callable[..., None] = observer.operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.observe(func, args, kwargs, out)
        return out

    def attention(self, *args: Any, **kwargs: Any) -> Any:
        """Run attention, and report it as the one operator that it is on every real device."""
        observe, self.observe = self.observe, _unobserved
        try:
            out = self.attend(*args, **kwargs)
        finally:
            self.observe = observe
        self.observe(torch.ops.aten.scaled_dot_product_attention.default, args, kwargs, out)
        return out

    def attend(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result of attention."""
        return functional.scaled_dot_product_attention(*args, **kwargs)

    def check(self) -> None:
        """Raise ShapeRunFailed if the run is not to be trusted although it came to its end."""


def _unobserved(*args: Any) -> None:
    """Take the observer's place while the inside of an operator runs."""


class _AttentionMode(TorchFunctionMode):
    """Leads every call of ``scaled_dot_product_attention`` through the operator mode, as one operator."""

    def __init__(self, operators: _OperatorMode) -> None:
        super().__init__()
        self.replaced = {getattr(functional, "scaled_dot_product_attention", None): operators.attention}
        heads = functional.multi_head_attention_forward
        namespace = {**heads.__globals__, "scaled_dot_product_attention": operators.attention}
        namespace["has_torch_function"] = lambda tensors: False  # or it would come back here and never run
        self.replaced[heads] = FunctionType(heads.__code__, namespace, heads.__name__, heads.__defaults__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.replaced.get(func, func)(*args, **(kwargs or {}))


class _ShapeMode(_OperatorMode):
    """Works on meta tensors: by a rule of this file where there is one, by PyTorch's own meta kernel otherwise."""

    def __init__(self, observer: Observer) -> None:
        super().__init__(observer)
        self.failure: Optional[Exception] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = _SHAPE_RULES.get(func)
        out = NotImplemented if rule is None else rule(*args, **kwargs)
        if out is NotImplemented:
            args, kwargs, out = self._by_pytorch(func, args, kwargs)
        self.observe(func, args, kwargs, out)
        return out

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Give the result the layout that the fused kernel gives it, which is that of the queries."""
        if query.dim() == 4 and query.shape[-1] == key.shape[-1] == value.shape[-1]:
            return torch.empty_like(query)
        return _empty((*query.shape[:-1], value.shape[-1]), query)

    def _by_pytorch(self, func: Any, args: Any, kwargs: Any) -> Tuple[Any, Any, Any]:
        """Call the operator with all of its tensors on the meta device.

        Constants (``torch.tensor([1, 2])``) keep their values as long as they meet nobody but each other.
        """
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        if "device" in kwargs or not tensors:
            kwargs = _on_meta(func, kwargs)
        if any(t.is_meta for t in tensors):
            args, kwargs = tree_map(_to_meta, (args, kwargs))
        try:
            return args, kwargs, func(*args, **kwargs)
        except Exception as error:
            self.failure = error
            raise

    def check(self) -> None:
        if self.failure is not None:  # the model has caught it and taken another way than with real values
            raise ShapeRunFailed(in_few_words(self.failure))


def _on_meta(func: Any, kwargs: Dict[str, Any]) -> Dict[str, Any]:
    """Let an operator that makes a tensor, or moves one to a device, do so on the meta device."""
    if not any(argument.name == "device" for argument in func._schema.arguments):
        return kwargs
    return {**{name: value for name, value in kwargs.items() if name != "pin_memory"}, "device": _META}


def _to_meta(value: Any) -> Any:
    return _meta_copy(value) if isinstance(value, Tensor) and not value.is_meta else value


_META = torch.device("meta")


def _meta_copy(tensor: Tensor) -> Tensor:
    """Make a meta tensor of the same class, shape, strides and dtype."""
    kind = type(tensor)
    if isinstance(tensor, UninitializedTensorMixin):
        return _uninitialized_copy(tensor, _META)
    if kind not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.is_quantized:
        raise ShapeRunFailed(f"a {kind.__name__} of layout {tensor.layout} and dtype {tensor.dtype}")
    if tensor.is_meta and kind is Tensor:
        return tensor.detach()
    duplicate = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=_META)
    if kind is nn.Parameter:
        duplicate = Tensor._make_subclass(nn.Parameter, duplicate, tensor.requires_grad)
    if tensor.__dict__:
        duplicate.__dict__.update(tensor.__dict__)
    return duplicate


def _real_copy(tensor: Tensor) -> Tensor:
    if isinstance(tensor, UninitializedTensorMixin):
        return _uninitialized_copy(tensor, None)
    return copy.deepcopy(tensor) if tensor.is_leaf else tensor.detach().clone()


def _uninitialized_copy(tensor: Any, device: Optional[torch.device]) -> Tensor:
    """Copy a lazy layer's parameter or buffer, which ``copy.deepcopy`` can't do for buffers."""
    storage = tensor.data
    return type(tensor)(requires_grad=tensor.requires_grad, device=device or storage.device, dtype=storage.dtype)


ShapeRule = Callable[..., Any]
_SHAPE_RULES: Dict[Any, ShapeRule] = {}


def _shape_rule(*operators: str) -> Callable[[ShapeRule], ShapeRule]:
    """Register a rule for ATen operators, those that this torch has.

    A rule takes the operator's arguments and returns its outputs as meta tensors, or NotImplemented for a case that
    is better left to PyTorch. Outputs must have PyTorch's shape, dtype and strides: hence most rules speak for
    contiguous tensors only.
    """

    def register(rule: ShapeRule) -> ShapeRule:
        for operator in operators:
            name, _, overload = operator.partition(".")
            packet = getattr(torch.ops.aten, name, None)
            if packet is not None and hasattr(packet, overload or "default"):
                _SHAPE_RULES[getattr(packet, overload or "default")] = rule
        return rule

    return register


def _plain(*tensors: Any) -> bool:
    """Say whether all are contiguous meta tensors, so that a result is contiguous too."""
    return all(t.is_meta and t.is_contiguous() for t in tensors)


def _is_channels_last(x: Tensor) -> bool:
    """Say whether the strides are those of channels_last and could not be those of a contiguous tensor."""
    if x.dim() != 4 or x.is_contiguous():
        return False
    least, stride = 0, x.stride()
    for axis in (1, 3, 2, 0):
        if x.shape[axis] == 0 or stride[axis] < least or (axis == 0 and least == stride[1]):
            return False
        least = stride[axis] * max(x.shape[axis], 1)
    return True


def _empty(
    shape: Sequence[int], like: Tensor, dtype: Optional[torch.dtype] = None, channels_last: bool = False
) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or like.dtype, device=_META, memory_format=memory_format)


def _by_axis(axes: int, *values: Any) -> Iterator[Tuple[int, ...]]:
    """Pair up sizes, strides and the like by axis; one number, alone or in a list, stands for all axes."""
    lists = [[v] if isinstance(v, int) else list(v) for v in values]
    return zip(*(v if len(v) == axes else v * axes for v in lists))


def _windows(sizes: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any) -> List[int]:
    """Count the places of a sliding window along each axis."""
    columns = _by_axis(len(sizes), list(sizes), kernel, stride, padding, dilation)
    return [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in columns]


def _unwindows(sizes: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any, extra: Any) -> List[int]:
    """Give the size along each axis in which a window has so many places, the inverse of ``_windows``."""
    columns = _by_axis(len(sizes), list(sizes), kernel, stride, padding, dilation, extra)
    return [(size - 1) * s - 2 * p + d * (k - 1) + e + 1 for size, k, s, p, d, e in columns]


@_shape_rule("convolution")
def _convolution(
    x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, *rest: Any
) -> Any:
    """One output for each place of the filter, or the size that has so many places where it is transposed.

    ``rest`` is output_padding and groups. The result is channels_last if the input or the weight is.
    """
    if not (x.is_meta and weight.is_meta) or x.dim() != weight.dim() or x.dtype is not weight.dtype:
        return NotImplemented
    output_padding, groups = rest
    if transposed:
        channels, read = weight.shape[1] * groups, weight.shape[0]
        out = _unwindows(x.shape[2:], weight.shape[2:], stride, padding, dilation, output_padding)
    else:
        channels, read = weight.shape[0], weight.shape[1] * groups
        out = _windows(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    if min(out) < 1 or x.shape[1] != read:
        return NotImplemented
    last = _is_channels_last(x) or _is_channels_last(weight)
    return _empty((x.shape[0], channels, *out), x, channels_last=last)


@_shape_rule("native_batch_norm")
def _native_batch_norm(x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *rest: Any) -> Any:
    """In evaluation mode the statistics that training would save are empty."""
    if training or not x.is_meta:
        return NotImplemented
    saved = _empty((0,), x, weight.dtype if weight is not None else None)
    return _empty(x.shape, x, channels_last=_is_channels_last(x)), saved, _empty((0,), saved)


@_shape_rule(
    "silu", "sigmoid", "relu", "tanh", "hardswish", "hardsigmoid", "leaky_relu", "hardtanh", "gelu", "mish", "elu",
    "softplus", "exp", "sqrt", "neg", "clone", "pow.Tensor_Scalar",
)  # fmt: skip
def _elementwise(x: Tensor, *rest: Any, **options: Any) -> Any:
    if not _plain(x) or not x.is_floating_point() or options.get("memory_format") not in _KEEP_FORMAT:
        return NotImplemented
    return torch.empty_like(x)


_KEEP_FORMAT = (None, torch.contiguous_format, torch.preserve_format)


@_shape_rule("silu_", "sigmoid_", "relu_", "tanh_", "hardswish_", "hardsigmoid_", "leaky_relu_", "hardtanh_", "elu_")
def _elementwise_in_place(x: Tensor, *rest: Any) -> Any:
    return x if x.is_meta else NotImplemented


@_shape_rule("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor")
def _arithmetic(x: Any, y: Any, **options: Any) -> Any:
    """Two tensors of one shape and dtype, or one and a number; what has to be broadcast is left to PyTorch."""
    if not isinstance(x, Tensor) or not _plain(x) or not x.is_floating_point():
        return NotImplemented
    if isinstance(y, (int, float)) or (y.shape == x.shape and y.dtype is x.dtype and _plain(y)):
        return torch.empty_like(x)
    return NotImplemented


@_shape_rule("cat")
def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Sizes add up along one axis and are equal along all others."""
    first = tensors[0]
    if not _plain(*tensors) or first.dim() == 0:
        return NotImplemented
    dim %= first.dim()
    shape = list(first.shape)
    for other in tensors[1:]:
        if other.dtype is not first.dtype or other.dim() != first.dim():
            return NotImplemented
        shape[dim] = first.shape[dim]
        if [*other.shape[:dim], *other.shape[dim + 1 :]] != [*shape[:dim], *shape[dim + 1 :]]:
            return NotImplemented
    shape[dim] = sum(t.shape[dim] for t in tensors)
    return _empty(shape, first)


@_shape_rule("max_pool2d_with_indices")
def _max_pool2d(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, *ceil: bool) -> Any:
    """One maximum, and its index, for each place of the window."""
    if any(ceil) or x.dim() != 4 or not _plain(x):
        return NotImplemented
    out = _windows(x.shape[2:], kernel, stride or kernel, padding, dilation)
    if min(out) < 1:
        return NotImplemented
    shape = (*x.shape[:2], *out)
    return _empty(shape, x), _empty(shape, x, torch.int64)


@_shape_rule("upsample_nearest2d")
def _upsample_nearest2d(x: Tensor, size: Any, *scales: Any) -> Any:
    return _empty((*x.shape[:2], *size), x) if x.dim() == 4 and _plain(x) else NotImplemented


def _settle(model: nn.Module) -> None:
    """Put a copy into evaluation mode, and keep its transformer layers from the fused path that skips their parts."""
    if any(type(m).train is not nn.Module.train for m in model.modules()):
        model.eval()
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0


def _watch(replica: Replica, observer: Observer) -> None:
    """Let the observer hear of every forward of the copy's modules, registered or not."""
    modules = list(replica.model.modules())
    for found in replica.unregistered.values():
        for _, module in found:
            modules.extend(module.modules())
    for module in dict.fromkeys(modules):
        module.__dict__["forward"] = _watched(module, module.forward, observer)


def _watched(module: nn.Module, forward: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    def forward_watched(*args: Any, **kwargs: Any) -> Any:
        token = observer.enter(module)
        try:
            out = forward(*args, **kwargs)
        except BaseException:
            observer.abandon(token)
            raise
        observer.leave(token, args, kwargs, out)
        return out

    return forward_watched


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Give every random generator that a forward pass can draw from its state back."""
    numpy = sys.modules.get("numpy")
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = numpy.random.get_state() if numpy else None
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)
        if numpy:
            numpy.random.set_state(numpy_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
