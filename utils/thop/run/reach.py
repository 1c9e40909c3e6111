"""What an object leads to: whether something that must be copied can be reached from it, and what else is on the way.

A module, a tensor, an array, an iterator, a generator of random numbers and a cache can't be put back once they have
been written to or advanced: whatever leads to one of them is copied. All else is shared with the copy, and what it
held is noted before a run and put back after it: so nothing else needs a copy, and no code of the user's runs for one.
"""

import array
import functools
import io
import pathlib
import random
import sys
import threading
import types
import weakref
from collections import deque
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_VALUES = int, float, str, bool, bytes, complex, type(None)
_DESCRIPTORS = types.GetSetDescriptorType, types.MemberDescriptorType
_PATHS = type(pathlib.Path()), type(pathlib.PurePath())
ATOMS = frozenset((*_VALUES, *_DESCRIPTORS, *_PATHS, torch.dtype, torch.device, torch.Size))
"""Classes of what has no parts, and is never copied."""
LEAVES = frozenset((*ATOMS, type, types.ModuleType))
"""The same with classes and modules, which are never copied either, but hold what code can write to."""
LRU: Any = type(functools.lru_cache(maxsize=None)(lambda: None))
OF_THE_PROCESS = frozenset(("torch", "tensorboard", "tensorboardX", "tqdm", "wandb", "IPython", "ipykernel",
                            "traitlets", "zmq", "jupyter_client"))  # fmt: skip
"""Packages that come beside Python, and whose objects stand for something of the process."""
_SHARED_PACKAGES = OF_THE_PROCESS.union(
    ("threading", "_thread", "_queue", "multiprocessing", "concurrent", "asyncio", "subprocess", "logging", "io", "_io",
     "tempfile", "socket", "selectors", "ssl", "sqlite3", "mmap", "ctypes", "_ctypes", "signal", "contextlib", "random",
     "_asyncio")
)  # fmt: skip
"""The same with Python's own: a thread, a lock, a file, a graph of PyTorch."""
_ORDINARY = ("torch.optim", "torch.distributions", "torch.utils.data.dataset", "torch.utils.data.sampler")
"""Parts of them whose objects are as anybody's."""
_OPEN = (dict, list, tuple, set, frozenset, deque, RemovableHandle, threading.local, random.Random)


Answer = TypeVar("Answer")


def per_class(function: Callable[[type], Answer]) -> Callable[[type], Answer]:
    """Remember what a function says of each class for as long as the class lives."""
    known: Dict[int, Answer] = {}
    references: Dict[int, Any] = {}  # each forgets its class when that dies: an identity may be another's then

    def forget(key: int) -> None:
        known.pop(key, None)
        references.pop(key, None)

    def answer(kind: type) -> Answer:
        key = id(kind)
        if key not in known:
            references[key] = weakref.ref(kind, lambda reference: forget(key))
            known[key] = function(kind)
        return known[key]

    return answer


@per_class
def is_shared(kind: type) -> bool:
    """Say whether objects of a class are never copied, nor looked into."""
    if issubclass(kind, _OPEN) or kind.__module__.startswith(_ORDINARY):
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


_STATE_OF_A_MODULE = getattr(nn.Module, "__getstate__", None)


def has_own_construction(kind: type) -> bool:
    """Say whether a class says how its objects are to be copied."""
    return (
        kind.__reduce_ex__ is not object.__reduce_ex__
        or kind.__reduce__ is not object.__reduce__
        or getattr(kind, "__getstate__", None) not in (getattr(object, "__getstate__", None), _STATE_OF_A_MODULE)
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


_BOUND = types.BuiltinFunctionType, types.MethodWrapperType


_UNREBUILT = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
_STREAMS = io.StringIO, io.BytesIO
_COPIED = (nn.Module, Tensor, RemovableHandle, torch.Generator, random.Random, bytearray, array.array, LRU, *_STREAMS)


@per_class
def is_iterator(kind: type) -> bool:
    """Say whether objects of a class are iterators whose state no attribute shows; files are not looked into."""
    if issubclass(kind, _UNREBUILT) or kind.__name__ == "_tee_dataobject":
        return True
    step = getattr(kind, "__next__", None)
    return step is not None and not issubclass(kind, io.IOBase) and (is_shared(kind) or not is_python(step))


def is_python(function: Any) -> bool:
    """Say whether a function is written in Python."""
    return isinstance(function, types.FunctionType)


@per_class
def is_array(kind: type) -> bool:
    """Say whether objects of a class are numpy's arrays."""
    return any(base.__module__ == "numpy" and base.__name__ == "ndarray" for base in kind.__mro__)


@per_class
def must_be_copied(kind: type) -> bool:
    """Say whether what becomes of an object of a class can't be undone."""
    if issubclass(kind, _COPIED) or is_array(kind) or is_iterator(kind):
        return True
    return kind.__module__.startswith("numpy.random") and hasattr(kind, "__reduce__") and not issubclass(kind, type)


def process_generators() -> Dict[int, Any]:
    """Return the generators of random numbers that the process draws from, by identity: these are never copied."""
    numpy = sys.modules.get("numpy.random.mtrand")
    own: Any = getattr(numpy, "_rand", None)
    found: List[Any] = [random._inst, torch.default_generator, own]  # type: ignore[attr-defined]
    if numpy is not None and hasattr(own, "_bit_generator"):
        found.append(own._bit_generator)
    return {id(generator): generator for generator in found}


class Reach:
    """Answers whether objects lead to what must be copied, and remembers those that do not, with all below them.

    code: the classes and modules that were met on the way.
    """

    def __init__(self) -> None:
        self.barren: Dict[int, Any] = process_generators()
        self.code: Dict[int, Any] = {}

    def leads(self, value: Any) -> bool:
        """Say whether something that must be copied can be reached."""
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
            if must_be_copied(kind):
                return True
            for part in _parts(current, kind):
                if isinstance(part, _CODE):
                    self.code[id(part)] = part
                elif type(part) not in ATOMS and id(part) not in seen and id(part) not in self.barren:
                    seen[id(part)] = part
                    waiting.append(part)
        self.barren.update(seen)
        return False


_PROXIES = (weakref.ProxyType, weakref.CallableProxyType)
_CODE = (type, types.ModuleType)


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
    if kind in _BOUND:
        return (bound_owner(value),)
    if issubclass(kind, weakref.ReferenceType):
        return (value(),)
    if issubclass(kind, partial):
        return (value.func, *value.args, *value.keywords.values(), value.__dict__)
    return attributes_of(value)
