"""What a model's code can write to outside of the model, and how it was before a run.

A forward pass may keep tensors in a global, a class attribute, a closure or a cache of functools. One of a run has no
values, and would be found there by the next real batch. So the places that the code names are looked through before
the run, and those that hold something of it afterwards get back what they held; what the code does not name is found
by asking the garbage collector who holds it.
"""

import contextlib
import dis
import functools
import gc
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from torch import Tensor, nn
from torch.nn import functional

_MANY = 400
"""Functions that are followed at most; code that reaches more is somebody's whole program."""
_LARGE = 10_000
"""Elements of a container that is remembered at most."""
_FOREIGN = frozenset(
    ("torch", "torchvision", "numpy", "builtins", "functools", "typing", "math", "os", "sys", "logging", "matplotlib",
     "pandas", "scipy", "PIL", "cv2", "yaml", "seaborn", "requests", "tqdm", "pathlib", "copy", "re", "json", "time",
     "collections", "abc", "threading", "contextlib", "itertools", "random", "warnings", "platform", "subprocess")
)  # fmt: skip
"""Packages whose code keeps no tensors, or only what is its own business."""
_LRU = type(functools.lru_cache(maxsize=None)(lambda: None))
_MISSING: Any = object()


def _reference_to(cache: Any) -> Any:
    """Refer to a cache weakly, where it lets us: Python 3.8's do not."""
    try:
        return weakref.ref(cache)
    except TypeError:
        return lambda: cache


def _is_foreign(module_name: Any) -> bool:
    return str(module_name).partition(".")[0] in _FOREIGN


def _is_of_chance(name: str) -> bool:
    return "rand" in name or name in ("choice", "choices", "shuffle", "sample", "uniform", "gauss", "normal", "beta")


_WHOLE = frozenset(("scaled_dot_product_attention", "multi_head_attention_forward", "lstm", "gru", "rnn_tanh",
                    "rnn_relu", "_VF"))  # fmt: skip
_ATTEND = getattr(functional, "scaled_dot_product_attention", nn)
_LAYERS_OF_ONE = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def _may_run_whole(root: Any) -> bool:
    """Say whether a class or function may call what a device runs as one operator, from code that is not read here."""
    if isinstance(root, type) and issubclass(root, nn.Module):
        package = str(root.__module__).partition(".")[0]
        return issubclass(root, _LAYERS_OF_ONE) or (_is_foreign(package) and package != "torch")
    return not isinstance(root, types.FunctionType)


class _Code(NamedTuple):
    """The names in a function's code, in that of functions inside it too."""

    reads: Tuple[str, ...]
    writes: Tuple[str, ...]
    attributes: Tuple[str, ...]


@functools.lru_cache(maxsize=4096)
def _read_code(code: types.CodeType) -> _Code:
    reads, writes, attributes = set(), set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            reads.add(instruction.argval)
        elif instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            writes.add(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = _read_code(constant)
            reads.update(inner.reads)
            writes.update(inner.writes)
            attributes.update(inner.attributes)
    return _Code(tuple(reads), tuple(writes), tuple(attributes))


class _Places:
    """Where the code of some classes and functions can write to, by name: what is there is looked up for each run."""

    def __init__(self, roots: Sequence[Any]) -> None:
        self.names: List[Tuple[Dict[str, Any], str]] = []  # globals that code assigns to
        self.holders: List[Tuple[Dict[str, Any], str]] = []  # globals that hold something that can be written to
        self.classes: List[Any] = []
        self.closures: List[Any] = []
        self.caches: List[Any] = []  # of methods
        self.mentions_random = False
        self.runs_whole = any(map(_may_run_whole, roots))
        self.seen: Set[int] = set()
        self.waiting: List[Tuple[types.FunctionType, Any]] = []  # a function, and the class whose method it is
        followed = 0
        self.roots = [root for root in roots if self._visit(root, forward=True)]
        while self.waiting and followed < _MANY:
            followed += 1
            self._follow(*self.waiting.pop())
        self.mentions_random = self.mentions_random or bool(self.waiting)
        self.runs_whole = self.runs_whole or bool(self.waiting)
        self.seen = set()

    def _visit(self, value: Any, kind: Any = None, forward: bool = False) -> bool:
        """Look at something that code names; say whether it can be written to."""
        for attribute in ("__func__", "func", "fget"):  # a method, a partial, a property
            if isinstance(value, (types.MethodType, staticmethod, classmethod, functools.partial, property)):
                value = getattr(value, attribute, value)
        if isinstance(value, types.FunctionType):
            if id(value) not in self.seen and not _is_foreign(value.__module__):
                self.seen.add(id(value))
                self.waiting.append((value, kind))
            return False
        if value is _ATTEND:
            self.runs_whole = True
            return False
        if isinstance(value, _LRU):
            self._visit(value.__wrapped__)
            return True
        if isinstance(value, type):
            if not _is_foreign(value.__module__) or forward:
                self._visit_class(value, forward)
            return False
        if isinstance(value, (Tensor, types.ModuleType)):
            return False
        return type(value) in _CONTAINERS or (
            isinstance(getattr(value, "__dict__", None), dict) and not _is_foreign(type(value).__module__)
        )

    def _visit_class(self, kind: type, forward: bool) -> None:
        for base in kind.__mro__:
            if _is_foreign(base.__module__):
                continue
            if id(base) not in self.seen:
                self.seen.add(id(base))
                self.classes.append(weakref.ref(base))
            if forward and "forward" in vars(base):
                self._visit(vars(base)["forward"], kind)

    def _follow(self, function: types.FunctionType, kind: Any) -> None:
        """Look at what a function's code names: globals, closures, methods of its class, what modules hold."""
        namespace, code = function.__globals__, _read_code(function.__code__)
        self.names.extend((namespace, name) for name in code.writes)
        if function.__closure__:
            self.closures.append(weakref.ref(function))
            for cell in function.__closure__:
                with contextlib.suppress(ValueError):  # a name that is not bound yet
                    self._visit(cell.cell_contents)
        if not self.mentions_random:
            self.mentions_random = any(map(_is_of_chance, (*code.reads, *code.attributes)))
        self.runs_whole = self.runs_whole or not _WHOLE.isdisjoint((*code.reads, *code.attributes))
        for name in code.reads:
            value = namespace.get(name, _MISSING)
            if isinstance(value, types.ModuleType):
                if not _is_foreign(value.__name__):
                    self._look_up(vars(value), code.attributes)
            elif value is not _MISSING and self._visit(value):
                self.holders.append((namespace, name))
        if kind is not None:
            for name in code.attributes:
                method = next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)
                if method is not None and self._visit(method, kind) and isinstance(method, _LRU):
                    self.caches.append(_reference_to(method))

    def _look_up(self, namespace: Dict[str, Any], names: Iterable[str]) -> None:
        for name in names:
            if name in namespace and self._visit(namespace[name]):
                self.holders.append((namespace, name))


_KNOWN: "OrderedDict[Tuple[int, ...], Tuple[List[Any], _Places]]" = OrderedDict()


def _places_of(kinds: Iterable[type]) -> _Places:
    """Return the places that classes can write to, worked out once as long as these have the same forwards."""
    kinds = list(kinds)
    key = tuple(id(part) for kind in kinds for part in (kind, getattr(kind, "forward", None)))
    references, places = _KNOWN.get(key, ([], None))
    if places is None or any(reference() is not kind for reference, kind in zip(references, kinds)):
        places = _Places(kinds)
        _KNOWN[key] = [weakref.ref(kind) for kind in kinds], places
        while len(_KNOWN) > 32:
            _KNOWN.popitem(last=False)
    return places


class Surroundings:
    """The mutable places that the code of some modules names, each with what it holds when this is made."""

    def __init__(self, modules: Iterable[nn.Module], functions: Sequence[Any] = ()) -> None:
        found = [_places_of({type(module): None for module in modules})]
        if functions:
            found.append(_Places(functions))
        self.runs_whole = any(places.runs_whole for places in found)
        self.mentions_random = any(places.mentions_random for places in found)
        self.containers: List[Tuple[Any, Any]] = []
        self.caches: List[Any] = []
        self.names = [(space, name, space.get(name, _MISSING)) for places in found for space, name in places.names]
        self.cells: List[Tuple[Any, Any]] = []
        self.classes: List[Tuple[type, Dict[str, Any]]] = []
        for places in found:
            self._take_down(places)

    def _take_down(self, places: _Places) -> None:
        for root in places.roots:
            self._remember(root)
        self.caches.extend(filter(None, [reference() for reference in places.caches]))
        for namespace, name in places.holders:
            self._remember(namespace.get(name))
            self.names.append((namespace, name, namespace.get(name, _MISSING)))
        for kind in filter(None, [reference() for reference in places.classes]):
            self.classes.append((kind, dict(vars(kind))))
            for value in vars(kind).values():
                if type(value) in _CONTAINERS:
                    self._remember(value)
        for function in filter(None, [reference() for reference in places.closures]):
            for cell in function.__closure__ or ():
                with contextlib.suppress(ValueError):
                    self.cells.append((cell, cell.cell_contents))
                    self._remember(cell.cell_contents)

    def _remember(self, value: Any, depth: int = 1) -> None:
        if isinstance(value, _LRU):
            self.caches.append(value)
        elif type(value) in _CONTAINERS:
            if len(value) <= _LARGE:
                self.containers.append((value, value.copy()))
        elif depth and not isinstance(value, (type, types.ModuleType, types.FunctionType, Tensor)):
            attributes = getattr(value, "__dict__", None)
            if isinstance(attributes, dict) and not _is_foreign(type(value).__module__):
                self.containers.append((attributes, dict(attributes)))
                for held in list(attributes.values()):
                    self._remember(held, 0)

    def give_back(self, ours: List[Any]) -> None:
        """Let every place that holds one of these objects hold again what it held before."""
        wanted = {id(value) for value in ours}
        for container, before in self.containers:
            _restore_container(container, before, wanted)
        for namespace, name, value in self.names:
            if _holds(namespace.get(name), wanted):
                _put(namespace, name, value)
        for kind, before in self.classes:
            for name, value in list(vars(kind).items()):
                if _holds(value, wanted):
                    if name in before:
                        setattr(kind, name, before[name])
                    else:
                        delattr(kind, name)
        for cell, content in self.cells:
            if _holds(_content(cell), wanted):
                cell.cell_contents = content
        for cache in self.caches:
            cache.cache_clear()


_CONTAINERS = frozenset((dict, OrderedDict, defaultdict, list, set, deque))


def evict(values: List[Any]) -> None:
    """Take objects out of everything that the garbage collector knows to hold one of them.

    What was there before is not known: an element goes, a name is left with None. A module whose tensors are all among
    them was made in the run, and goes as a whole.
    """
    tensors = {id(value) for value in values}
    modules = [kept for kept in gc.get_objects() if issubclass(type(kept), nn.Module) and _is_made_of(kept, tensors)]
    targets = [*values, *modules]
    own = {id(part) for m in modules for part in (m, m.__dict__, m._parameters, m._buffers, m._modules)}
    wanted = {id(target) for target in targets}
    for holder in gc.get_referrers(*targets):
        if any(holder is ours for ours in (values, targets, modules)) or id(holder) in own:
            continue
        if isinstance(holder, dict):
            _evict_from_dict(holder, wanted)
        elif isinstance(holder, list):
            holder[:] = [held for held in holder if id(held) not in wanted]
        elif isinstance(holder, set):
            holder.difference_update([held for held in holder if id(held) in wanted])
        elif isinstance(holder, _LRU):
            holder.cache_clear()
        elif isinstance(holder, types.CellType):
            if id(_content(holder)) in wanted:
                holder.cell_contents = None
        elif isinstance(getattr(holder, "__dict__", None), dict):
            _evict_from_dict(holder.__dict__, wanted, None)


def _is_made_of(module: nn.Module, tensors: Set[int]) -> bool:
    if "_parameters" not in module.__dict__:
        return False
    held = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    return bool(held) and tensors.issuperset(held)


def _evict_from_dict(holder: Dict[Any, Any], wanted: Set[int], instead: Any = _MISSING) -> None:
    if instead is _MISSING and "__name__" in holder and "__spec__" in holder:
        instead = None  # the names of a Python module
    owner = next((kind for kind in gc.get_referrers(holder) if isinstance(kind, type)), None)
    for key in [key for key, held in list(holder.items()) if id(held) in wanted]:
        if owner is not None and vars(owner).get(key) is holder[key]:
            setattr(owner, key, None)
        else:
            _put(holder, key, instead)


def _content(cell: Any) -> Optional[Any]:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _put(namespace: Dict[str, Any], name: str, value: Any) -> None:
    if value is _MISSING:
        namespace.pop(name, None)
    else:
        namespace[name] = value


def _restore_container(container: Any, before: Any, wanted: Set[int]) -> None:
    if isinstance(container, dict):
        for key in [key for key, value in list(container.items()) if _holds(value, wanted) or _holds(key, wanted)]:
            _put(container, key, before.get(key, _MISSING))
    elif isinstance(container, set):
        container.difference_update([value for value in container if _holds(value, wanted)])
    elif any(_holds(value, wanted) for value in list(container)):
        kept = [value for value in container if not _holds(value, wanted)]
        kept = list(before) if len(container) == len(before) else kept
        container.clear()
        container.extend(kept)


def _holds(value: Any, wanted: Set[int], depth: int = 4) -> bool:
    """Say whether a value is, or a few levels down contains, one of these objects."""
    if id(value) in wanted:
        return True
    return depth > 0 and any(_holds(part, wanted, depth - 1) for part in _parts(value))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from list(value.values())
    elif isinstance(value, (list, tuple, set, deque)):
        yield from list(value)
    elif not isinstance(value, (type, types.ModuleType, types.FunctionType, Tensor)):
        yield from list(getattr(value, "__dict__", {}).values())


__all__ = ["Surroundings", "evict"]
