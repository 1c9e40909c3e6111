"""What an object leads to: whether a module or a tensor can be reached from it, by attributes, containers, closures."""

import types
import weakref
from collections import deque
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_LEAVES = frozenset((int, float, str, bool, bytes, complex, type(None), type, types.ModuleType))
ATOMS = frozenset((*_LEAVES, torch.dtype, torch.device, torch.Size))
"""Classes of what has no parts, and is never copied."""
_SHARED_PACKAGES = frozenset(
    ("torch", "threading", "_thread", "queue", "_queue", "multiprocessing", "concurrent", "asyncio", "subprocess",
     "logging", "io", "_io", "tempfile", "socket", "selectors", "ssl", "sqlite3", "mmap", "ctypes", "_ctypes", "signal",
     "contextlib", "random", "tensorboard", "tensorboardX", "tqdm", "wandb")
)  # fmt: skip
"""Objects of these packages stand for something of the process: a thread, a lock, a file, a graph of PyTorch."""


Answer = TypeVar("Answer")


def per_class(function: Callable[[type], Answer]) -> Callable[[type], Answer]:
    """Remember what a function says of each class for as long as the class lives."""
    known: weakref.WeakKeyDictionary[type, Answer] = weakref.WeakKeyDictionary()

    def answer(kind: type) -> Answer:
        if kind not in known:
            known[kind] = function(kind)
        return known[kind]

    return answer


@per_class
def is_shared(kind: type) -> bool:
    """Say whether objects of a class are never copied, nor looked into."""
    if issubclass(kind, (dict, list, tuple, set, frozenset, deque, RemovableHandle)):
        return False
    modules = [base.__module__ for base in kind.__mro__]
    return __package__ in [name.rpartition(".")[0] for name in modules] or not _SHARED_PACKAGES.isdisjoint(
        name.partition(".")[0] for name in modules
    )


@per_class
def slots_of(kind: type) -> Tuple[str, ...]:
    """Return the names of a class's slots, under which their values are found."""
    if not any("__slots__" in vars(base) for base in kind.__mro__):
        return ()
    return tuple(
        name
        for base in kind.__mro__
        for name, value in vars(base).items()
        if isinstance(value, types.MemberDescriptorType)
    )


def has_own_construction(kind: type) -> bool:
    """Say whether a class says how its objects are to be copied."""
    return (
        kind.__reduce_ex__ is not object.__reduce_ex__
        or kind.__reduce__ is not object.__reduce__
        or getattr(kind, "__getstate__", None) is not getattr(object, "__getstate__", None)
        or hasattr(kind, "__deepcopy__")
        or not kind.__flags__ & 0x200  # not made by a class statement
    )


def attributes_of(value: Any) -> List[Any]:
    """Return what an object's attributes hold, its class's properties left alone."""
    found = list(getattr(value, "__dict__", {}).values())
    found.extend(getattr(value, name) for name in slots_of(type(value)) if hasattr(value, name))
    return found


def referent(reference: Any) -> Any:
    """Return the object behind a weak reference or proxy, or None."""
    if isinstance(reference, weakref.ReferenceType):
        return reference()
    try:
        return reference.__repr__.__self__  # a proxy hands on every attribute
    except (ReferenceError, AttributeError):
        return None


def bound_owner(function: Any) -> Optional[Any]:
    """Return the object that a method of a builtin type is bound to, or None."""
    owner = getattr(function, "__self__", None)
    return None if isinstance(owner, (types.ModuleType, type)) else owner


class Reach:
    """Answers whether objects lead to a module or a tensor, and remembers which ones do not."""

    def __init__(self) -> None:
        self.barren: Dict[int, Any] = {}

    def leads(self, value: Any) -> bool:
        """Say whether a module or a tensor can be reached."""
        if id(value) in self.barren:
            return False
        seen: Dict[int, Any] = {id(value): value}
        waiting: List[Any] = [value]
        while waiting:
            current = waiting.pop()
            kind = type(current)
            if kind in _PROXIES:
                kind = type(referent(current))
                current = referent(current)
            if issubclass(kind, (nn.Module, Tensor, RemovableHandle)):
                return True
            for part in _parts(current, kind):
                if type(part) not in _LEAVES and id(part) not in seen and id(part) not in self.barren:
                    seen[id(part)] = part
                    waiting.append(part)
        self.barren.update(seen)
        return False


_PROXIES = (weakref.ProxyType, weakref.CallableProxyType)


def _parts(value: Any, kind: type) -> Iterable[Any]:
    if issubclass(kind, type) or is_shared(kind):
        return ()
    if issubclass(kind, dict):
        return (*dict.keys(value), *dict.values(value), *attributes_of(value), getattr(value, "default_factory", None))
    for base in (list, tuple, set, frozenset, deque):
        if issubclass(kind, base):
            return (*base.__iter__(value), *attributes_of(value))  # type: ignore[attr-defined]
    if kind is types.FunctionType:
        return (*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__, value.__dict__)
    if kind is types.CellType:
        try:
            return (value.cell_contents,)
        except ValueError:
            return ()
    if kind is types.MethodType:
        return (value.__self__, value.__func__)
    if kind is types.BuiltinFunctionType:
        return (bound_owner(value),)
    if kind is weakref.ReferenceType:
        return (value(),)
    if issubclass(kind, partial):
        return (value.func, *value.args, *value.keywords.values(), value.__dict__)
    if kind.__module__ == "numpy":
        return tuple(value.flat) if getattr(getattr(value, "dtype", None), "hasobject", False) else ()
    return attributes_of(value)
