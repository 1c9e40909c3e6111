"""Run a copy of a model once, under the eyes of an observer, and leave the model itself untouched.

The copy is run on shapes alone, as meta tensors under a dispatch mode, or for real where shapes are not enough. The
observer hears of every module that starts and ends, and of every ATen operator in between.
"""

import copy
import gc
import random
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import UninitializedTensorMixin
from torch.utils._pytree import tree_map

from .shadow import Copier, Replica
from .shape_rules import LAYER_RULES, META, SHAPE_RULES, empty

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

_NoTorchFunction = torch._C.DisableTorchFunction
_NoTorchDispatch = torch._C._DisableTorchDispatch
"""Contexts in which what we do with tensors is not taken for the model's doing; torch 1.13 lacks the second."""
HAS_LAYER_RULES = hasattr(_NoTorchDispatch, "__enter__")


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


def tensors_in(values: Iterable[Any]) -> List[Tensor]:
    """Return the tensors of an operator's arguments or results, those in lists included."""
    found: List[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(tensors_in(value))
    return found


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
    replica = copier.replica(model)
    arguments = copier.value(tuple(inputs))
    _settle(replica)
    observer = observe(replica)
    mode = operator_mode(observer)
    _watch(replica, observer, mode)
    observer.begin(arguments)
    attention: Any = _AttentionMode(mode) if observer.attention_is_one_operator else nullcontext()
    try:
        with _random_state_kept(), torch.no_grad(), mode, attention:
            output = replica.model(*arguments)
    finally:
        for module in replica.modules:  # a module that its own forward refers to would wait for the garbage collector
            module.__dict__.pop("forward", None)
    mode.check()
    return output


class _OperatorMode(TorchDispatchMode):
    """Runs every ATen operator as it is and tells the observer."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observe: Callable[..., None] = observer.operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with _NoTorchFunction():
            args, kwargs, out = self.compute(func, args, kwargs or {})
            self.observe(func, args, kwargs, out)
        return out

    def compute(self, func: Any, args: Any, kwargs: Dict[str, Any]) -> Tuple[Any, Dict[str, Any], Any]:
        """Return the operator's arguments as it was run with them, and its result."""
        return args, kwargs, func(*args, **kwargs)

    def forward_of(self, module: nn.Module) -> Callable[..., Any]:
        """Return what a module's forward is to be run by."""
        return module.forward

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler for the first operator, which takes a second."""
        return False

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

    def compute(self, func: Any, args: Any, kwargs: Dict[str, Any]) -> Tuple[Any, Dict[str, Any], Any]:
        rule = SHAPE_RULES.get(func)
        out = NotImplemented if rule is None else rule(*args, **kwargs)
        return self._by_pytorch(func, args, kwargs) if out is NotImplemented else (args, kwargs, out)

    def forward_of(self, module: nn.Module) -> Callable[..., Any]:
        rule = LAYER_RULES.find(module) if HAS_LAYER_RULES else None
        forward = module.forward
        if rule is None:
            return forward

        def one_operator(*args: Any, **kwargs: Any) -> Any:
            x: Any = args[0] if len(args) == 1 and not kwargs else None
            found = rule(module, x) if type(x) is Tensor and x.is_meta else None
            if found is None:
                return forward(*args, **kwargs)
            func, arguments = found
            with _NoTorchDispatch(), _NoTorchFunction():
                out = SHAPE_RULES[func](*arguments)
                if out is not NotImplemented:
                    self.observe(func, arguments, {}, out)
            if out is NotImplemented:
                return forward(x)
            return out if type(out) is Tensor else out[0]

        return one_operator

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Give the result the layout that the fused kernel gives it, which is that of the queries."""
        if query.dim() == 4 and query.shape[-1] == key.shape[-1] == value.shape[-1]:
            return torch.empty_like(query)
        return empty((*query.shape[:-1], value.shape[-1]), query)

    def _by_pytorch(self, func: Any, args: Any, kwargs: Any) -> Tuple[Any, Any, Any]:
        """Call the operator with all of its tensors on the meta device.

        Constants (``torch.tensor([1, 2])``) keep their values as long as they meet nobody but each other.
        """
        tensors = tensors_in(args)
        if kwargs:
            tensors += tensors_in(kwargs.values())
        if "device" in kwargs or not tensors:
            kwargs = _on_meta(func, kwargs)
        kept = sum(not tensor.is_meta for tensor in tensors)
        if 0 < kept < len(tensors):
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
    return {**{name: value for name, value in kwargs.items() if name != "pin_memory"}, "device": META}


def _to_meta(value: Any) -> Any:
    return _meta_copy(value) if isinstance(value, Tensor) and not value.is_meta else value


def _meta_copy(tensor: Tensor) -> Tensor:
    """Make a meta tensor of the same class, shape, strides and dtype."""
    kind = type(tensor)
    is_parameter = kind is nn.Parameter
    if is_parameter or kind is Tensor:
        if tensor.layout is torch.strided and not tensor.is_quantized:
            if tensor.is_contiguous() and not tensor.is_meta:  # for what is on meta already, that is slow
                duplicate = torch.empty_like(tensor, device=META)
            else:
                duplicate = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=META)
            if is_parameter:
                duplicate = Tensor._make_subclass(kind, duplicate, tensor.requires_grad)
            if tensor.__dict__:
                duplicate.__dict__.update(tensor.__dict__)
            return duplicate
    elif isinstance(tensor, UninitializedTensorMixin):
        return _uninitialized_copy(tensor, META)
    raise ShapeRunFailed(f"a {kind.__name__} of layout {tensor.layout} and dtype {tensor.dtype}")


def _real_copy(tensor: Tensor) -> Tensor:
    if isinstance(tensor, UninitializedTensorMixin):
        return _uninitialized_copy(tensor, None)
    return copy.deepcopy(tensor) if tensor.is_leaf else tensor.detach().clone()


def _uninitialized_copy(tensor: Any, device: Optional[torch.device]) -> Tensor:
    """Copy a lazy layer's parameter or buffer, which ``copy.deepcopy`` can't do for buffers."""
    storage = tensor.data
    return type(tensor)(requires_grad=tensor.requires_grad, device=device or storage.device, dtype=storage.dtype)


def _settle(replica: Replica) -> None:
    """Put a copy into evaluation mode, and keep its transformer layers from the fused path that skips their parts."""
    if any(type(module).train is not nn.Module.train for module in replica.modules):
        replica.model.eval()
    for module in replica.modules:
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0


def _watch(replica: Replica, observer: Observer, mode: _OperatorMode) -> None:
    """Let the observer hear of every forward of the copy's modules, registered or not."""
    for module in replica.modules:
        module.__dict__["forward"] = _watched(module, mode.forward_of(module), observer)


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
def collector_paused() -> Iterator[None]:
    """Spare a count of milliseconds the garbage collector, which would walk all of torch for a copy's many objects.

    The copy should be gone again by the end: then there is nothing to collect.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


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
