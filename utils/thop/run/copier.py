"""A copy of a model that can be run, hooked and written to in the model's place.

Copied is what leads to something that must be (``reach.py``), and the containers that modules hold; everything else is
shared, and put back after the run (``taken_down.py``). Bound methods and closures that reach into the model reach into
the copy. No constructor runs: objects are made empty, and get their attributes from a queue, however deep they nest.
What has a construction of its own is left to ``copy.deepcopy``, which finds the parts that are copied already.
"""

import copy
import functools
import io
import threading
import types
import warnings
import weakref
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .inputs import NotCountable, unwrap
from .module_fields import UncopiedTable, fill_module
from .reach import (
    ATOMS,
    LRU,
    Reach,
    attributes_of,
    bound_owner,
    has_own_construction,
    is_array,
    is_iterator,
    is_shared,
    referent,
    slots_of,
)
from .shape_tensor import THREAD, TYPE


@dataclass
class ModelCopy:
    """A copy of a model: all modules in it, and those that no ``_modules`` holds (plain lists, helpers' attributes).

    unregistered: (attribute, module) pairs by the id of the module that owns the attribute.
    """

    model: nn.Module
    modules: List[nn.Module] = field(default_factory=list)
    unregistered: Dict[int, List[Tuple[str, nn.Module]]] = field(default_factory=dict)


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


class _EmptyObject:
    """What a copy whose class has ``__del__`` turns into before it dies: nothing of the original's gets closed."""


class _EmptyModule(nn.Module):
    """The same for a module."""


Origin = Tuple[Optional[nn.Module], str]
"""The copied module that something was reached from, and by which attribute; "" for what is registered in it."""


class Copier:
    """Copies a module tree; ``memo`` maps ids of originals to copies, in the form ``copy.deepcopy`` reads.

    ``copy_tensor`` makes the copy of a tensor; ``refuse`` is told what an iterator that has no copy says when it is
    advanced; ``training`` is the flag that copied modules get, None for their own. Of an array the copy reads the same
    memory and can't be written to, unless ``copies_arrays``: they may be a whole data set.
    """

    def __init__(
        self,
        copy_tensor: Callable[[Tensor], Tensor],
        on_shapes: bool = False,
        refuse: Callable[[Exception], None] = lambda error: None,
        copies_arrays: bool = False,
    ) -> None:
        self.copy_tensor = copy_tensor
        self.training: Optional[bool] = False
        self.on_shapes, self.refuse, self.copies_arrays = on_shapes, refuse, copies_arrays
        self.memo: Dict[int, Any] = {id(type): TYPE} if on_shapes else {}
        self.originals: List[Any] = []  # whose ids are in use for as long as the memo is
        self.modules: List[nn.Module] = []
        self.unregistered: Dict[int, List[Tuple[str, nn.Module]]] = {}
        self.reach = Reach()
        self.waiting: List[Tuple[Any, Any, Origin]] = []
        self.emptied: List[Any] = []
        self.helpers: List[Any] = []
        self.uncopied: List[Any] = []  # objects that lead on and refuse to be copied
        self.ordinary: Dict[type, bool] = {}  # classes of modules that are copied as such: are they without __del__?
        self.functions: List[Any] = []  # that the model holds
        self.owner: Optional[nn.Module] = None
        self.attribute = ""

    def copy_model(self, model: nn.Module) -> ModelCopy:
        """Copy a whole model."""
        return ModelCopy(self.copy(model), self.modules, self.unregistered)

    def copy(self, value: Any) -> Any:
        """Return the copy of a value, with all that it leads to."""
        duplicate = self.value(value)
        while self.waiting:
            original, unfinished, (self.owner, self.attribute) = self.waiting.pop()
            if type(original) in self.ordinary:
                fill_module(self, original, unfinished)
            else:
                self._fill_object(original, unfinished)
        self.owner, self.attribute = None, ""
        return duplicate

    def value(self, value: Any) -> Any:
        """Return the copy of any value that a module's attributes can hold; objects may still have to be filled."""
        kind = type(value)
        if kind in ATOMS:
            return value
        done = self.memo.get(id(value))
        if done is not None:
            return done
        handler = _HANDLERS.get(kind)
        if handler is not None:
            return handler(self, value)
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, type):
            return self.code(value)
        return self.other(value)

    def remember(self, original: Any, duplicate: Any) -> Any:
        """Enter a copy, and keep the original alive as long as its id is in use."""
        self.memo[id(original)] = duplicate
        self.originals.append(original)
        return duplicate

    # ---- modules ----

    def module(self, original: nn.Module) -> nn.Module:
        """Make the copy of a module, which gets its attributes later."""
        kind = type(original)
        if kind not in self.ordinary:
            wrapped = unwrap(original)
            if wrapped is not original:
                return self.remember(original, self.value(wrapped))
            if any(base.__name__ == "FullyShardedDataParallel" for base in kind.__mro__):
                raise NotCountable("the model is sharded (FullyShardedDataParallel): count it before it is wrapped")
            if isinstance(original, torch.jit.ScriptModule):
                duplicate = self.remember(original, copy.deepcopy(original, self.memo))
                self.modules.append(duplicate)
                return duplicate
            self.ordinary[kind] = not hasattr(kind, "__del__")
        made: Any = object.__new__(kind) if self.ordinary[kind] else self._empty(kind, _EmptyModule)
        self.memo[id(original)] = made
        self.modules.append(made)
        if self.attribute:
            self.unregistered.setdefault(id(self.owner), []).append((self.attribute, made))
        self.waiting.append((original, made, (made, "")))
        return made

    def _empty(self, kind: type, empty_kind: type) -> Any:
        """Make an object of a class without its constructor; one with ``__del__`` will die as one of another."""
        if not hasattr(kind, "__del__"):
            return object.__new__(kind)
        duplicate: Any = object.__new__(empty_kind)
        self.emptied.append((duplicate, empty_kind))
        object.__setattr__(duplicate, "__class__", kind)
        return duplicate

    # ---- containers and tensors ----

    def table(self, original: Any) -> Any:
        """Copy a module's table of parameters or buffers."""
        outer, self.owner = self.owner, self.modules[0]
        duplicate = self.mapping(original)
        self.owner = outer
        return duplicate

    def mapping(self, original: Any) -> Any:
        """Copy a dict or OrderedDict."""
        memo, kind = self.memo, type(original)
        duplicate = memo[id(original)] = {} if kind is UncopiedTable else kind()
        for key, value in original.items():
            kind = type(value)
            if type(key) not in ATOMS:
                key = self.value(key)
            if kind is nn.Parameter or kind is Tensor:
                done = memo.get(id(value))
                if done is None:
                    done = self._copy_of(value)
                duplicate[key] = done
            elif kind in ATOMS:
                duplicate[key] = value
            else:
                duplicate[key] = self.value(value)
        return duplicate

    def tensor(self, original: Tensor) -> Tensor:
        """Copy a tensor, once."""
        done = self.memo.get(id(original))
        return self.remember(original, self._copy_of(original)) if done is None else done

    def _copy_of(self, original: Tensor) -> Tensor:
        duplicate = self.memo[id(original)] = self.copy_tensor(original)
        if original.__dict__ and duplicate is not original:
            for name, value in original.__dict__.items():
                duplicate.__dict__.setdefault(name, self.value(value))
        return duplicate

    def sequence(self, original: Any) -> Any:
        """Copy a list, deque or set."""
        if ATOMS.issuperset(map(type, original)):
            return self.remember(original, original.copy())
        return self.container(original)

    def _numbered(self, values: Any) -> List[Any]:
        """Copy the elements of something, each under its number for a name."""
        outer, copies = self.attribute, []
        for index, value in enumerate(values):
            self.attribute = f"{outer}[{index}]" if outer else ""
            copies.append(self.value(value))
        self.attribute = outer
        return copies

    def tuple(self, original: Tuple[Any, ...]) -> Tuple[Any, ...]:
        """Copy a tuple; the same object where nothing in it has changed."""
        if ATOMS.issuperset(map(type, original)):
            return original
        parts = self._numbered(original)
        done = self.memo.get(id(original))  # it may be inside of one of its own parts
        if done is not None or all(a is b for a, b in zip(parts, original)):
            return original if done is None else done
        return self.remember(original, tuple(parts))

    # ---- what can be called ----

    def method(self, original: types.MethodType) -> Any:
        """Bind the method to the copy of its object; a saved forward goes on being watched."""
        owner, function = self.value(original.__self__), original.__func__
        if isinstance(owner, nn.Module) and self.attribute != "forward":
            replaced = original.__self__.__dict__.get("forward")
            if function is type(owner).forward or original == replaced:
                function = SavedForward(function)
        return types.MethodType(function, owner)

    def builtin(self, original: Any) -> Any:
        """Bind a method of a builtin type, such as a list's append, to the copy of its object."""
        owner = bound_owner(original)
        if owner is None:
            self.functions.append(original)
        duplicate = owner if owner is None else self.value(owner)
        return original if duplicate is owner else getattr(duplicate, original.__name__)

    def function(self, original: types.FunctionType) -> Any:
        """Copy a function whose closure, defaults or attributes lead into the model; any other one is shared."""
        self.functions.append(original)
        if not self.reach.leads(original):
            return original
        cells = tuple([self._cell(cell) for cell in original.__closure__ or ()])
        duplicate = self.remember(
            original,
            types.FunctionType(original.__code__, original.__globals__, original.__name__, None, cells or None),
        )
        for old, new in zip(original.__closure__ or (), cells):
            self._fill_cell(old, new)
        duplicate.__defaults__ = self.value(original.__defaults__)
        duplicate.__kwdefaults__ = self.value(original.__kwdefaults__)
        for name, value in original.__dict__.items():
            duplicate.__dict__[name] = self.value(value)
        duplicate.__qualname__, duplicate.__module__ = original.__qualname__, original.__module__
        return duplicate

    def _cell(self, cell: Any) -> Any:
        """Return the cell that a copied function has in a cell's place; functions that share one go on sharing it."""
        if not self.reach.leads(cell):
            return cell
        done = self.memo.get(id(cell))
        return self.remember(cell, types.CellType()) if done is None else done

    def _fill_cell(self, old: Any, new: Any) -> None:
        if old is new:
            return
        try:
            new.cell_contents  # noqa: B018
        except ValueError:
            new.cell_contents = self.value(old.cell_contents)

    def partial(self, original: Any) -> Any:
        """Copy a functools.partial or an object of a class derived from it."""
        if not self.reach.leads(original):
            return original
        keywords = {name: self.value(value) for name, value in original.keywords.items()}
        arguments = (self.value(original.func), *map(self.value, original.args))
        duplicate = self.remember(original, partial.__new__(type(original), *arguments, **keywords))
        for name, value in original.__dict__.items():
            duplicate.__dict__[name] = self.value(value)
        return duplicate

    def weak_reference(self, original: Any) -> Any:
        """Refer to the copy of the object."""
        target = referent(original)
        duplicate = self.value(target) if target is not None else None
        if duplicate is target:
            return original
        return weakref.ref(duplicate) if isinstance(original, weakref.ReferenceType) else weakref.proxy(duplicate)

    def cache(self, original: Any) -> Any:
        """Make a cache like one of functools's, with nothing in it: what it computes is the copy's."""
        known = getattr(original, "cache_parameters", None)  # Python 3.8 does not say whether types are told apart
        options = known() if known else {"maxsize": original.cache_info().maxsize}
        function = original.__wrapped__
        self.functions.append(function)
        duplicate: Any = functools.lru_cache(**options)(self.value(function))
        for name, value in original.__dict__.items():
            if name != "__wrapped__":
                duplicate.__dict__[name] = self.value(value)
        return self.remember(original, duplicate)

    # ---- iterators and generators ----

    def iterator(self, original: Any) -> Any:
        """Rebuild an iterator from what it says of itself, which leaves the original where it is; or refuse for it."""
        kind: Any = type(original)
        if is_shared(kind) or (kind.__reduce__ is object.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__):
            return self.unadvanced(original)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # itertools, from Python 3.12
                reduced = original.__reduce__()
                self.originals.append(reduced)  # its parts are made for this
                make, arguments, state = (*reduced, None)[:3]
                duplicate = self.remember(original, make(*map(self.value, arguments)))
                if state is not None:
                    duplicate.__setstate__(self.value(state))
        except (TypeError, AttributeError):
            return self.unadvanced(original)
        return duplicate

    def unadvanced(self, original: Any) -> Any:
        """Put an object in an iterator's place that refuses to be advanced."""
        where = f"attribute {self.attribute!r}" if self.attribute else "one of its containers"
        return self.remember(original, Unadvanced(type(original).__name__, where, self.refuse))

    def code(self, original: Any) -> Any:
        """Share a class or a module; what it holds is taken down."""
        self.reach.code[id(original)] = original
        return original

    def stream(self, original: Any) -> Any:
        """Copy a stream in memory, with the place that it is read at."""
        if original.closed:
            return original
        place = original.tell()
        duplicate = self.remember(original, type(original)(original.getvalue()))
        duplicate.seek(place)
        return duplicate

    def random_generator(self, original: torch.Generator) -> torch.Generator:
        """Copy a generator of random numbers of PyTorch's."""
        if id(original) in self.reach.barren:
            return original
        duplicate = torch.Generator(device=original.device)
        duplicate.set_state(original.get_state())
        return self.remember(original, duplicate)

    def array(self, original: Any) -> Any:
        """Copy an array of numpy's; one of numbers is only looked at, unless it must be written to."""
        if original.dtype.hasobject:
            duplicate = self.remember(original, original.copy())
            for index in range(duplicate.size):
                duplicate.flat[index] = self.value(original.flat[index])
            return duplicate
        if self.copies_arrays or hasattr(original, "_mask"):  # a mask is an array of its own
            return self.remember(original, original.copy())
        duplicate = self.remember(original, original.view())
        duplicate.flags.writeable = False
        return duplicate

    # ---- any other object ----

    def weak_container(self, original: Any) -> Any:
        """Copy what holds its elements weakly; the copies are alive as long as the memo is."""
        duplicate = self.remember(original, type(original)())
        if isinstance(original, weakref.WeakSet):
            duplicate.update(map(self.value, list(original)))
        else:
            for key, value in list(original.items()):
                duplicate[self.value(key)] = self.value(value)
        return duplicate

    def other(self, original: Any) -> Any:
        """Copy an object that leads to what must be copied, if it can be; share it otherwise."""
        if isinstance(original, partial):
            return self.partial(original)
        kind = type(original)
        if is_iterator(kind):
            return self.iterator(original)
        if is_array(kind):
            return self.array(original)
        if is_shared(kind) or not self.reach.leads(original):
            return original
        remembered = len(self.originals)
        try:
            duplicate = self._make(original)
        except (NotCountable, RecursionError):
            raise
        except Exception:
            for value in self.originals[remembered:]:  # nothing of a half-made copy stays
                if not isinstance(value, (nn.Module, Tensor)):
                    self.memo.pop(id(value), None)
            duplicate = original
        if duplicate is original:
            self.uncopied.append(original)
        return duplicate

    def _make(self, original: Any) -> Any:
        kind: Any = type(original)
        base: Any = next((base for base in kind.__mro__ if base in _BASES), None)
        if base is not None:
            return self.container(original, base)
        is_local = issubclass(kind, threading.local)
        if has_own_construction(kind) and kind is not RemovableHandle and not is_local:
            if hasattr(kind, "__del__"):
                return original
            for part in attributes_of(original):
                self.value(part)
            return self.remember(original, copy.deepcopy(original, self.memo))
        duplicate = self.remember(original, kind.__new__(kind) if is_local else self._empty(kind, _EmptyObject))
        self.helpers.append(duplicate)
        self.waiting.append((original, duplicate, (self.owner, self.attribute)))
        return duplicate

    def container(self, original: Any, base: Any = None) -> Any:
        """Copy a container, or an object of a class derived from one, by that one's methods.

        It is entered before its elements are copied, since it may hold itself.
        """
        kind: Any = type(original)
        base = base or kind
        if base in (tuple, frozenset):
            duplicate = self.remember(original, base.__new__(kind, self._numbered(original)))
        elif base is deque:
            duplicate = self.remember(original, deque.__new__(kind))
            deque.__init__(duplicate, (), original.maxlen)
        else:
            duplicate = self.remember(original, base.__new__(kind))
        if base in (dict, OrderedDict, defaultdict):
            if base is defaultdict:
                duplicate.default_factory = self.value(original.default_factory)
            for key, value in base.items(original):  # type: ignore[attr-defined]
                base.__setitem__(duplicate, self.value(key), self.value(value))  # type: ignore[attr-defined]
        elif base is set:
            set.update(duplicate, self._numbered(original))
        elif base in (list, deque):
            base.extend(duplicate, self._numbered(original))  # type: ignore[attr-defined]
        self._fill_object(original, duplicate)
        return duplicate

    def _fill_object(self, original: Any, duplicate: Any) -> None:
        """Copy the attributes of an object, whatever its class does when one is set."""
        outer = self.attribute
        for name, value in list(getattr(original, "__dict__", {}).items()):
            duplicate.__dict__[name] = self.value(value)
        for name in slots_of(type(original)):
            if hasattr(original, name):
                object.__setattr__(duplicate, name, self.value(getattr(original, name)))
        self.attribute = outer

    def let_go(self) -> None:
        """Empty all copies, so that none keeps another alive, and what dies closes nothing of the original's."""
        for duplicate, empty_kind in self.emptied:
            duplicate.__dict__.clear()
            object.__setattr__(duplicate, "__class__", empty_kind)
        for module in self.modules:
            if type(module) in self.ordinary:  # not a script
                module.__dict__.clear()
        for duplicate in self.helpers:
            getattr(duplicate, "__dict__", {}).clear()
        self.emptied, self.helpers, self.waiting, self.modules, self.unregistered = [], [], [], [], {}
        self.memo, self.originals, self.uncopied, self.reach = {}, [], [], Reach()


class Unadvanced:
    """Stands in a copy for an iterator that can't be rebuilt; it may be held, but whoever advances it ends the run."""

    def __init__(self, kind: str, where: str, refuse: Callable[[Exception], None]) -> None:
        self._refuse, self._why = (
            refuse,
            (
                f"the model's forward takes the next element of a {kind}, {where}, which can't be copied: "
                "to count without moving it, give the model a list in its place"
            ),
        )

    def __iter__(self) -> "Unadvanced":
        return self

    def __next__(self, *args: Any) -> Any:
        error = NotCountable(self._why)
        self._refuse(error)
        raise error

    send = throw = __anext__ = __await__ = __aiter__ = __next__

    def close(self) -> None:
        """Do nothing: the original stays open."""


_BASES = (tuple, frozenset, defaultdict, OrderedDict, dict, set, list, deque)
_HANDLERS: Dict[type, Callable[[Copier, Any], Any]] = {
    dict: Copier.mapping,
    OrderedDict: Copier.mapping,
    defaultdict: Copier.container,
    list: Copier.sequence,
    set: Copier.sequence,
    deque: Copier.sequence,
    tuple: Copier.tuple,
    types.MethodType: Copier.method,
    types.BuiltinFunctionType: Copier.builtin,
    types.MethodWrapperType: Copier.builtin,
    type: Copier.code,
    types.ModuleType: Copier.code,
    io.StringIO: Copier.stream,
    io.BytesIO: Copier.stream,
    types.FunctionType: Copier.function,
    partial: Copier.partial,
    weakref.ReferenceType: Copier.weak_reference,
    weakref.ProxyType: Copier.weak_reference,
    weakref.CallableProxyType: Copier.weak_reference,
    weakref.WeakSet: Copier.weak_container,
    weakref.WeakKeyDictionary: Copier.weak_container,
    weakref.WeakValueDictionary: Copier.weak_container,
    torch.Generator: Copier.random_generator,
    LRU: Copier.cache,
}
