"""What a model's code can write to outside of its copy: taken down before a run and put back after it.

Noted is what each place holds: namespaces, classes, functions, and every object that the copy shares with the model.
What must be copied (``reach.py``) is replaced by its copy there while the run goes on, so that nothing of the user's
is within reach. A tensor of the run that is kept in a place which nobody has named is found by asking the garbage
collector who holds it, and taken out.
"""

import contextvars
import gc
import operator
import threading
import types
from collections import OrderedDict, deque
from typing import Any, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from torch import Tensor, nn

from .copier import Copier
from .inputs import NotCountable
from .namespaces import MISSING, Named, is_data, is_foreign, named_by
from .reach import LEAVES, LRU, is_shared, must_be_copied, per_class, slots_of
from .shape_tensor import NeedsValues

_SEQUENCES = (list, set, deque)


class _Held:
    """What one object held when this was made: its elements, its attributes."""

    __slots__ = ("attributes", "elements", "owner", "slots")

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.elements: Any = None
        self.attributes: Any = None
        is_dict, is_sequence, has_fields, slots = _plan(type(owner))
        if is_dict:
            self.elements = dict(owner.items() if isinstance(owner, OrderedDict) else dict.items(owner))
        elif is_sequence:
            self.elements = list(owner)
        if has_fields:
            fields = owner.__dict__
            self.attributes = fields.copy() if isinstance(fields, (dict, types.MappingProxyType)) else None
        self.slots: List[Tuple[str, Any]] = [(name, _attribute(owner, name)) for name in slots]

    def put_back(self) -> None:
        """Let the object hold just that again."""
        owner = self.owner
        if isinstance(owner, dict):
            _put_back_items(owner, self.elements)
        elif self.elements is not None and not _are_same(owner, self.elements):
            _put_back_elements(owner, self.elements)
        if isinstance(owner, type):
            _put_back_class(owner, self.attributes)
        elif self.attributes is not None:
            _put_back_items(owner.__dict__, self.attributes)
        for name, value in self.slots:
            if _attribute(owner, name) is not value:
                _set_attribute(owner, name, value)


class _HeldItem:
    """What a dictionary held under one key."""

    __slots__ = ("key", "owner", "value")

    def __init__(self, owner: Dict[str, Any], key: str) -> None:
        self.owner, self.key, self.value = owner, key, owner.get(key, MISSING)

    def put_back(self) -> None:
        """Let the dictionary hold just that again."""
        if self.value is MISSING:
            self.owner.pop(self.key, None)
        elif self.owner.get(self.key) is not self.value:
            self.owner[self.key] = self.value


_SLOTS = {types.CellType: ("cell_contents",), types.FunctionType: ("__defaults__", "__kwdefaults__")}
"""What is noted of objects made in C, as of those with slots."""


def _attribute(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except (AttributeError, ValueError):  # a slot, or a cell, without anything in it
        return MISSING


def _set_attribute(owner: Any, name: str, value: Any) -> None:
    if value is not MISSING:
        (setattr if type(owner) in _SLOTS else object.__setattr__)(owner, name, value)
    elif isinstance(owner, types.CellType):
        del owner.cell_contents
    else:
        object.__delattr__(owner, name)


def _are_same(now: Any, before: Any) -> bool:
    """Say whether two collections hold the same objects in the same order."""
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _put_back_items(now: Dict[Any, Any], before: Dict[Any, Any]) -> None:
    """Let a dictionary hold the same objects under the same keys in the same order, in as few steps as can be."""
    kind: Any = OrderedDict if isinstance(now, OrderedDict) else dict
    if _are_same(kind.keys(now), before) and _are_same(kind.values(now), before.values()):
        return
    for key in [key for key, value in dict.items(now) if key not in before and not isinstance(value, types.ModuleType)]:
        kind.pop(now, key, None)  # but a module that was imported meanwhile stays with its package
    for key, value in before.items():
        if dict.get(now, key, MISSING) is not value:
            kind.__setitem__(now, key, value)
    if len(now) == len(before) and not _are_same(kind.keys(now), before):
        kind.clear(now)
        for key, value in before.items():
            kind.__setitem__(now, key, value)


def _put_back_elements(now: Any, before: List[Any]) -> None:
    base: Any = next(base for base in _SEQUENCES if isinstance(now, base))
    base.clear(now)
    (base.update if base is set else base.extend)(now, before)


def _put_back_class(kind: type, before: Dict[str, Any]) -> None:
    for name, value in list(vars(kind).items()):
        if name not in before:
            type.__delattr__(kind, name)
        elif value is not before[name]:
            type.__setattr__(kind, name, before[name])
    for name in before.keys() - vars(kind).keys():
        type.__setattr__(kind, name, before[name])


@per_class
def _plan(kind: type) -> Tuple[bool, bool, bool, Sequence[str]]:
    """Return how the state of a class's objects is noted: as a dictionary, as a sequence, by attributes, by slots."""
    is_dict, has_fields = issubclass(kind, dict), kind.__dictoffset__ != 0 or issubclass(kind, (type, threading.local))
    return is_dict, issubclass(kind, _SEQUENCES), has_fields, _SLOTS.get(kind) or slots_of(kind)


@per_class
def _can_change(kind: type) -> bool:
    """Say whether objects of a class hold something that code can replace."""
    if kind in LEAVES or is_shared(kind) or issubclass(kind, (type, types.ModuleType)):
        return False
    return any(_plan(kind))


def _stays(value: Any) -> bool:
    """Say whether a value is left as it is at sight: what has no parts, and code but for ``type``."""
    return type(value) in LEAVES and value is not type


class TakenDown:
    """All places of one run, each with what it held.

    It is filled step by step, so that an interrupt at any moment finds noted what was replaced until then.
    """

    def __init__(self, copier: Copier) -> None:
        self.copier = copier
        self.held: Dict[Any, Any] = {}
        self.bare: List[Any] = []  # functions that hold nothing
        self.code: Set[int] = set()  # classes and modules that were met

    def note(self, owner: Any) -> None:
        """Take down what an object holds, once."""
        if id(owner) not in self.held:
            self.held[id(owner)] = _Held(owner)

    def take(self, named: Iterable[Named]) -> List[Named]:
        """Take down what code names, and put copies in the place of what must be copied.

        Classes and modules that are met on the way are code too: what they name is returned, and taken down as well.
        """
        self._take_named(list(named))
        met: List[Named] = []
        while self.copier.reach.code.keys() - self.code:
            found = [one for key, one in list(self.copier.reach.code.items()) if key not in self.code]
            self.code.update(map(id, found))
            found = [one for one in found if not is_foreign(one.__module__ if isinstance(one, type) else one.__name__)]
            for module in [one for one in found if isinstance(one, types.ModuleType)]:
                self._take_module(module)
            classes = [one for one in found if isinstance(one, type) and not issubclass(one, (nn.Module, Tensor))]
            if classes:
                met.append(named_by(classes))
                self._take_named(met[-1:])
        self._take_shared()
        return met

    def _take_module(self, module: types.ModuleType) -> None:
        self.note(vars(module))
        for name, value in list(vars(module).items()):
            self._replace(vars(module), name, value)

    def _take_named(self, named: List[Named]) -> None:
        sets = any(found.sets for found in named)
        for found in named:
            for namespace in found.namespaces.values() if found.reflects else ():
                self.note(namespace)
            for namespace in found.asking.values():
                self._take_item(namespace, "type")
                self._replace(namespace, "type", type)
            for namespace, name in found.names.values():
                self._take_item(namespace, name)
                value = namespace.get(name, MISSING)
                if not _stays(value):
                    self._replace(namespace, name, value)
            classes = [*found.classes, *found.foreign_classes] if sets else found.classes
            for kind in filter(None, [reference() for reference in classes]):
                self._take_class(kind)
            for function in filter(None, [reference() for reference in found.functions]):
                self._take_function(function)
        for original in self.copier.uncopied:
            self.note(original)
            for name, value in list(getattr(original, "__dict__", {}).items()):
                self._replace(original.__dict__, name, value)
        self._take_context()

    def _take_item(self, namespace: Dict[str, Any], name: str) -> None:
        if id(namespace) not in self.held and (id(namespace), name) not in self.held:
            self.held[id(namespace), name] = _HeldItem(namespace, name)

    def _take_shared(self) -> None:
        """Take down all objects that the copy shares with the model, and that nothing has replaced."""
        for value in list(self.copier.reach.barren.values()):
            if _can_change(type(value)):
                self.note(value)

    def _take_context(self) -> None:
        """Replace what context variables in reach hold; it is the run's own context, and gone with it."""
        for variable in list(self.copier.reach.barren.values()):
            if type(variable) is contextvars.ContextVar:
                value = variable.get(MISSING)
                duplicate = self._copy(value, variable.name)
                if duplicate is not value:
                    variable.set(duplicate)

    def _copy(self, value: Any, name: str) -> Any:
        """Return a copy of what must be copied, and of what is copied already; anything else is itself."""
        kind = type(value)
        if value is type:
            return self.copier.memo.get(id(type), type)
        if kind in LEAVES or value is MISSING or not is_data(value) or (is_shared(kind) and not must_be_copied(kind)):
            return value
        done = self.copier.memo.get(id(value))
        if done is None and self.copier.reach.leads(value):
            self.copier.attribute = name
            try:
                done = self.copier.copy(value)
            except (NotCountable, NeedsValues):
                raise
            except Exception:  # it is somebody's whole program, and stays as it is
                self.copier.waiting.clear()
        return value if done is None else done

    def _replace(self, space: Dict[str, Any], name: str, value: Any) -> None:
        duplicate = self._copy(value, name)
        if duplicate is not value:
            space[name] = duplicate

    def _take_class(self, kind: Any) -> None:
        self.note(kind)
        if is_foreign(kind.__module__):
            return
        for name, value in list(vars(kind).items()):
            if isinstance(value, type):
                self.copier.code(value)
            is_code = type(value) in LEAVES or isinstance(value, (types.FunctionType, property, type))
            if is_code and value is not type:
                continue
            inner = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
            duplicate = self._copy(inner, name)
            if duplicate is not inner:
                type.__setattr__(kind, name, duplicate if inner is value else type(value)(duplicate))

    def _take_function(self, function: types.FunctionType) -> None:
        is_plain = all(map(_stays, function.__defaults__ or ()))
        if function.__dict__ or function.__closure__ or function.__kwdefaults__ or not is_plain:
            self._take_what_it_holds(function, function.__qualname__)
        else:
            self.bare.append(function)

    def _take_what_it_holds(self, function: types.FunctionType, name: str) -> None:
        self.note(function)
        self.copier.reach.leads(function)  # what it holds by way of other functions is shared, and noted
        for attribute, value in list(function.__dict__.items()):
            self._replace(function.__dict__, attribute, value)
        for cell in function.__closure__ or ():
            self.note(cell)
            value = _attribute(cell, "cell_contents")
            duplicate = self._copy(value, name)
            if duplicate is not value:
                cell.cell_contents = duplicate
        if function.__defaults__ is not None:
            copied = self._copy(function.__defaults__, name)
            function.__defaults__ = tuple([self._copy(value, name) if value is type else value for value in copied])
        if function.__kwdefaults__ is not None:
            copied = self._copy(function.__kwdefaults__, name)
            function.__kwdefaults__ = {k: self._copy(v, name) if v is type else v for k, v in copied.items()}

    def put_back(self) -> None:
        """Let every place hold again what it held; to do it twice does no harm."""
        for held in list(self.held.values()):
            held.put_back()
        for function in self.bare:
            if function.__dict__:
                function.__dict__.clear()


# ---- what nobody has named ----


def evict(values: List[Any]) -> List[str]:
    """Take objects out of everything that the garbage collector knows to hold one of them; say where they were.

    What was there before is not known: an element goes, a name is left with None. What can't be written to, such as a
    tuple, goes itself from whoever holds it. A module whose tensors are all among them was made in the run, and goes
    as a whole.
    """
    tensors = {id(value) for value in values}
    modules = [kept for kept in gc.get_objects() if issubclass(type(kept), nn.Module) and _is_made_of(kept, tensors)]
    targets, places, seen = [*values, *modules], [], {id(values), id(modules)}
    own = {id(part) for m in modules for part in (m, m.__dict__, m._parameters, m._buffers, m._modules)}
    for _ in range(4):
        wanted, holders = {id(target) for target in targets}, gc.get_referrers(*targets)
        seen.update((id(targets), id(holders)))
        targets = []
        for holder in holders:
            if id(holder) in own or id(holder) in seen or isinstance(holder, types.FrameType):
                continue
            seen.add(id(holder))
            place = _evict_from(holder, wanted)
            if place is None:
                targets.append(holder)
            else:
                places.append(place)
        if not targets:
            break
    return places


def _evict_from(holder: Any, wanted: Set[int]) -> Optional[str]:
    """Take objects out of one that holds some, and name it; None for one that can't be written to."""
    if isinstance(holder, dict):
        return _evict_from_dict(holder, wanted)
    if isinstance(holder, _SEQUENCES):
        _put_back_elements(holder, [held for held in holder if id(held) not in wanted])
        return f"a {type(holder).__name__}"
    if isinstance(holder, LRU):
        holder.cache_clear()
        return f"the cache of {holder.__wrapped__.__qualname__}"
    if isinstance(holder, types.CellType):
        if id(_attribute(holder, "cell_contents")) in wanted:
            holder.cell_contents = None
        return "a closure"
    if isinstance(getattr(holder, "__dict__", None), dict) and not isinstance(holder, (Tensor, type)):
        _evict_from_dict(holder.__dict__, wanted, None)
    slots = [name for name in slots_of(type(holder)) if id(_attribute(holder, name)) in wanted]
    for name in slots:
        object.__setattr__(holder, name, None)
    is_object = bool(slots) or isinstance(getattr(holder, "__dict__", None), dict)
    return f"an object of class {type(holder).__name__}" if is_object else None


def _evict_from_dict(holder: Dict[Any, Any], wanted: Set[int], instead: Any = MISSING) -> str:
    place = "a dictionary"
    if instead is MISSING and "__name__" in holder and "__spec__" in holder:
        instead, place = None, f"the module {holder['__name__']}"
    owner = next((kind for kind in gc.get_referrers(holder) if isinstance(kind, type)), None)
    for key in [key for key, held in list(holder.items()) if id(held) in wanted]:
        if owner is not None and vars(owner).get(key) is holder[key]:
            setattr(owner, key, None)
            place = f"the class {owner.__qualname__}"
        elif instead is MISSING:
            holder.pop(key, None)
        else:
            holder[key] = instead
    return place


def _is_made_of(module: nn.Module, tensors: Set[int]) -> bool:
    if "_parameters" not in module.__dict__:
        return False
    held = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    return bool(held) and tensors.issuperset(held)
