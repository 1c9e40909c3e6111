"""All that leans on PyTorch's insides: what each is for, since which torch it is so, and what is done where it is not.

Nothing else in the package touches a name of PyTorch's that begins with an underscore and is no attribute of a module
or tensor that documentation speaks of. ``make compat`` runs the tests of it under torch 1.13, 2.0, 2.4 and the newest.
"""

import weakref
from contextlib import contextmanager
from functools import lru_cache
from types import FunctionType
from typing import Any, Callable, Dict, Iterator, List, Optional

import torch
from torch import Tensor, nn, overrides
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.nn.modules import module as torch_module
from torch.nn.parameter import UninitializedTensorMixin as UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.utils import _python_dispatch

try:
    from torch.utils import _device
except ImportError:  # torch before 2.0 has no default device
    _device = None  # type: ignore[assignment]

# ---- what is in force in a thread ----

no_torch_function = torch._C.DisableTorchFunction
"""Calls inside are led past subclasses and function modes. Since 1.7."""


def as_functions_are_heard() -> Callable[[], None]:
    """Return what puts back, at any time and as often as it is called, whether this thread is in ``no_torch_function``.

    It is a guard's exit, which restores what its entry has found. An interrupt between the lines of a ``with`` loses
    the guard there, and the thread would stay deaf. Both are called from C, where no interrupt comes between them.
    """
    guard: Any = no_torch_function()
    in_and_out = guard.__enter__, guard.__exit__
    tuple(map(type(in_and_out[0]).__call__, in_and_out))
    return in_and_out[1]


set_grad_enabled: Callable[[bool], None] = torch._C._set_grad_enabled
"""Gradients on or off without a context, so that what was in force can be put back whatever happened. Since 0.4."""

if hasattr(torch._C._DisableTorchDispatch, "__enter__"):
    no_torch_dispatch: Any = torch._C._DisableTorchDispatch
else:

    @contextmanager
    def no_torch_dispatch() -> Iterator[None]:
        """Let tensors without memory be handled as if they had one (torch before 2.0 has only the guard)."""
        guard = torch._C._DisableTorchDispatch()
        try:
            yield
        finally:
            del guard


class _Stack:
    """One of PyTorch's two stacks of modes in this thread, the innermost mode last. Since 1.13."""

    def __init__(self, owner: Any, length: Callable[[], int], at: Callable[[int], Any], kind: str) -> None:
        self.push, self.pop, self.length, self.at = owner._push_mode, owner._pop_mode, length, at
        self.set_leader = getattr(torch._C, f"_set_torch_{kind}_mode", None)  # torch 1.13: stands for the whole stack
        self.leader = getattr(owner, f"_Torch{kind.capitalize()}StackMode", None)

    def modes(self) -> List[Any]:
        """Return the modes in force."""
        return [self.at(i) for i in range(self.length())]

    def replace(self, modes: List[Any]) -> None:
        """Put these modes in force in place of those that are."""
        now = self.modes()
        common = 0
        while common < min(len(now), len(modes)) and now[common] is modes[common]:
            common += 1
        for _ in range(len(now) - common):
            self.pop()
        for mode in modes[common:]:
            self.push(mode)
        if self.leader is not None and self.set_leader is not None:
            self.set_leader(self.leader() if modes else None)


DISPATCH_MODES = _Stack(
    _python_dispatch, torch._C._len_torch_dispatch_stack, torch._C._get_dispatch_stack_at, "dispatch"
)
FUNCTION_MODES = _Stack(overrides, torch._C._len_torch_function_stack, torch._C._get_function_stack_at, "function")
FUNCTION_MODES_LAST = _device is not None
"""Whether an interrupt leaves the stack of function modes as it is: since 2.0, where no generator holds one of them."""
_MODE_FLAGS = (
    "_is_in_torch_dispatch_mode", "_is_in_non_infra_torch_dispatch_mode",
    "_is_in_any_mode_without_ignore_compile_internals",
)  # fmt: skip


def mode_flags() -> List[Any]:
    """Return PyTorch's notes of whether any mode is in force; None for those that this torch has not."""
    return [getattr(_python_dispatch, name, None) for name in _MODE_FLAGS]


def restore_mode_flags(flags: List[Any]) -> None:
    """Put these notes back."""
    for name, value in zip(_MODE_FLAGS, flags):
        if value is not None and getattr(_python_dispatch, name) != value:
            setattr(_python_dispatch, name, value)


DEFAULT_DEVICE = (
    (getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context"),
    (_device, "CURRENT_DEVICE"),
)
"""Where ``torch.set_default_device`` keeps what it was told: owners and names. Since 2.0, the former since 2.1."""

if hasattr(torch._C, "_is_any_autocast_enabled"):
    autocast_is_on: Callable[[], bool] = torch._C._is_any_autocast_enabled
else:

    def autocast_is_on() -> bool:
        """Say whether autocast changes what operators are called with (torch before 2.4 has no one answer)."""
        return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


# ---- operators ----

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd  # type: ignore[attr-defined]


def take_apart(func: Any, args: Any, kwargs: Dict[str, Any]) -> Any:
    """Run a composite operator as the others that it consists of. Since 1.12."""
    return func._op_dk(COMPOSITE, *args, **kwargs)


def has_kernel(name: str, key: str) -> bool:
    """Say whether an operator, by its name with the overload's, has a kernel under a dispatch key. Since 1.9."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))


RECURRENT: Dict[str, Any] = {
    name: getattr(torch._C._VariableFunctions, name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
}
"""The functions that recurrent layers call, as the modules call them. Since 1.0."""


def attention_forward_with(attend: Optional[Callable[..., Any]]) -> Any:
    """Return ``multi_head_attention_forward`` with another kernel of attention in it, and led by no function mode.

    It is rebuilt from its code, as it looks both up in its module, where they are everybody's. Since 1.13; before 2.0
    there is no such kernel, and it has nothing to be replaced.
    """
    function: Any = functional.multi_head_attention_forward
    namespace = {**function.__globals__, "has_torch_function": lambda tensors: False}  # or it comes back here for ever
    if attend is not None:
        namespace["scaled_dot_product_attention"] = attend
    return FunctionType(function.__code__, namespace, function.__name__, function.__defaults__)


def whole_batch(tensor: Tensor) -> Optional[Tensor]:
    """Return the tensor of all samples behind one that ``torch.vmap`` shows a sample of, or None. Since 2.0."""
    functorch = getattr(torch._C, "_functorch", None)
    if functorch is None or not functorch.is_batchedtensor(tensor):
        return None
    whole: Tensor = functorch.get_unwrapped(tensor)
    return whole


KNOWS_NODES = hasattr(torch._C, "_current_autograd_node")
node_running: Callable[[], Any] = getattr(torch._C, "_current_autograd_node", lambda: None)
"""The node of the graph that the backward pass is at. Since 2.1; before, none."""

element_size: Callable[[torch.dtype], int] = lru_cache(maxsize=None)(torch._utils._element_size)
"""Bytes of an element of a type, without making a tensor, which a run would hear of. Since 1.6."""

# ---- calls of modules ----

CALL = "_call_impl" if hasattr(nn.Module, "_wrapped_call_impl") else "__call__"
"""What a call of a module comes to; to replace it costs less than to replace ``__call__``, where that is another."""
COMPILED_CALL = "_compiled_call_impl"
"""The attribute in which ``module.compile()`` keeps what is called in its place. Since 2.2."""
GLOBAL_HOOKS: Dict[str, Dict[Any, Any]] = {
    name: held for name, held in vars(torch_module).items() if name.startswith("_global_") and isinstance(held, dict)
}
"""The tables of hooks of all modules, by name."""
_torch_call: Any = vars(nn.Module)[CALL]
_no_hooks: Dict[str, Any] = {name: {} for name in GLOBAL_HOOKS if name.endswith("hooks")}
call_with_hooks = FunctionType(_torch_call.__code__, {**_torch_call.__globals__, **_no_hooks}, CALL)
"""What PyTorch does where a module has hooks of its own, rebuilt in a namespace without global ones."""

# ---- tensors without memory, and storages ----

# UninitializedTensorMixin: what parameters and buffers of lazy layers are before they have a shape. Since 1.8.

not_led = torch._C._disabled_torch_function_impl
"""A ``__torch_function__`` that does nothing: a subclass costs no more than a tensor. Since 1.7."""
make_wrapper: Callable[..., Any] = Tensor._make_wrapper_subclass
"""Make a tensor of a subclass that has a shape, strides, a dtype and a device, and no memory. Since 1.9."""
make_alias: Callable[..., Any] = Tensor._make_subclass
"""Make a tensor of a subclass on the memory of another one. Since 1.0."""
guard_pointer: Callable[[Tensor], None] = getattr(torch._C, "_set_throw_on_mutable_data_ptr", lambda tensor: None)
"""Let whoever asks for a tensor's address be refused. Since 2.3; before, an extension reads at address 0."""
_untyped_storage: Any = getattr(Tensor, "untyped_storage", None) or Tensor._storage  # type: ignore[attr-defined]


def _shows_storage() -> bool:
    bare: Any = type("Bare", (Tensor,), {"__torch_dispatch__": not_led, "__torch_function__": not_led})
    try:
        return _untyped_storage(make_wrapper(bare, (1,))) is not None
    except NotImplementedError:
        return False


HAS_STORAGE = _shows_storage()
"""Whether PyTorch shows the storage of a tensor without memory, which it does since 2.1."""


class _Memory:
    """What stands for the storage of a tensor without memory where PyTorch does not show it."""

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def _cdata(self) -> int:
        return id(self)

    def nbytes(self) -> int:
        """Bytes of the storage."""
        return self.size


def storage_of(tensor: Any) -> Any:
    """Return the storage that a tensor shares with its views; ``key_of`` tells it from others."""
    if HAS_STORAGE:
        return _untyped_storage(tensor)
    if not hasattr(tensor, "_memory"):
        return _untyped_storage(tensor)
    if tensor._memory is None:
        extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
        tensor._memory = _Memory(extent * tensor.element_size() if tensor.numel() else 0)
    return tensor._memory


def key_of(tensor: Any) -> int:
    """Return what tells a tensor's storage from others for as long as it lives."""
    return storage_of(tensor)._cdata  # type: ignore[no-any-return]


class WeakStorage:
    """A reference to a storage that does not keep it alive; where storages tell, ``died`` is called with its key.

    They do since torch 2.1, where a weak reference lives as long as the storage; before, somebody has to look.
    """

    def __init__(self, storage: Any, died: Optional[Callable[[int], None]] = None) -> None:
        key = storage._cdata
        tells = None if died is None else lambda reference: died(key)
        if STORAGES_TELL or isinstance(storage, _Memory):
            self.reference: Any = weakref.ref(storage, tells)
        else:
            self.reference = StorageWeakRef(storage)

    def expired(self) -> bool:
        """Say whether the storage is gone."""
        return self.reference() is None if isinstance(self.reference, weakref.ref) else self.reference.expired()


def _storages_tell() -> bool:
    tensor = torch.empty(1)
    return HAS_STORAGE and storage_of(tensor) is storage_of(tensor)


STORAGES_TELL = _storages_tell()
