"""The one walker over nested values and the one map: what operators, modules and models take and return.

They look into mappings, sequences, sets, dataclasses and whatever has attributes, however deep; not into modules,
whose tensors are their own, nor into functions, classes and what stands for something of the process.
"""

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping
from typing import Any, Callable, Dict, Iterable, List

import torch
from torch import Tensor, nn

from .reach import LEAVES, attributes_of, is_shared, slots_of

_PLAIN = frozenset((*LEAVES, torch.layout, torch.memory_format, torch.Generator))
_CONTAINERS = (tuple, list, set, frozenset, deque)


def tensors_in(values: Iterable[Any]) -> List[Tensor]:
    """Return the tensors in some values, in order, nested ones included."""
    found: List[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
            continue
        kind = type(value)
        if kind in _PLAIN:
            continue
        if kind is list or kind is tuple:
            found += tensors_in(value)
        else:
            _find(value, Tensor, found, {})
    return found


def instances_in(value: Any, kinds: Any) -> List[Any]:
    """Return the instances of some classes in a nested value, in order."""
    found: List[Any] = []
    _find(value, kinds, found, {})
    return found


def _find(value: Any, kinds: Any, found: List[Any], seen: Dict[int, Any]) -> None:
    if isinstance(value, kinds):
        found.append(value)
    elif type(value) not in _PLAIN and id(value) not in seen:
        seen[id(value)] = value
        for part in parts_of(value):
            _find(part, kinds, found, seen)


def parts_of(value: Any) -> List[Any]:
    """Return what a value consists of: the elements of a container, the values of a mapping, an object's attributes."""
    kind = type(value)
    if isinstance(value, (type, nn.Module, Tensor)) or is_shared(kind) or not hasattr(kind, "__mro__"):
        return []
    if isinstance(value, dict):
        parts = list(dict.values(value))
    elif isinstance(value, _CONTAINERS):
        base: Any = next(base for base in _CONTAINERS if isinstance(value, base))
        parts = list(base.__iter__(value))
    elif isinstance(value, Mapping):
        parts = list(value.values())
    else:
        parts = []
    return parts + attributes_of(value) if _has_attributes(kind) else parts


def _has_attributes(kind: type) -> bool:
    return kind not in (dict, list, tuple, set, OrderedDict, defaultdict, deque) and kind.__module__ != "builtins"


def map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Apply a function to the tensors in a nested value; what holds none of them stays itself.

    Containers keep their class; of an object a shallow copy gets the attributes that changed.
    """
    if isinstance(value, Tensor):
        return function(value)
    kind = type(value)
    if kind is list:
        return [map_tensors(part, function) for part in value]
    if kind is tuple:
        return tuple([map_tensors(part, function) for part in value])
    if kind is dict:
        return {key: map_tensors(part, function) for key, part in value.items()}
    return value if kind in _PLAIN else _mapped(value, function, {})


def _mapped(value: Any, function: Callable[[Tensor], Any], memo: Dict[int, Any]) -> Any:
    """Map any value; ``memo`` has what was mapped already, by identity, and keeps the originals alive."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in _PLAIN or not tensors_in((value,)):
        return value
    if id(value) in memo:
        return memo[id(value)][1]

    def part_of(part: Any) -> Any:
        return _mapped(part, function, memo)

    if isinstance(value, (tuple, frozenset)):
        return _rebuilt(value, list(map(part_of, value)))
    duplicate = copy.copy(value)
    memo[id(value)] = value, duplicate
    if isinstance(value, dict):
        for key, part in dict.items(value):
            dict.__setitem__(duplicate, key, part_of(part))
    elif isinstance(value, (list, deque, set)):
        duplicate.clear()
        (duplicate.update if isinstance(value, set) else duplicate.extend)(list(map(part_of, value)))
    for name, part in list(getattr(value, "__dict__", {}).items()):
        duplicate.__dict__[name] = part_of(part)
    for name in slots_of(type(value)):
        if hasattr(value, name):
            object.__setattr__(duplicate, name, part_of(getattr(value, name)))
    return duplicate


def _rebuilt(value: Any, parts: List[Any]) -> Any:
    """Make a tuple or frozenset of a class of its own, whose constructor may take anything."""
    kind: Any = type(value)
    base: Any = tuple if isinstance(value, tuple) else frozenset
    try:
        made = base.__new__(kind, parts)
    except TypeError:  # what torch returns where there are several results
        return kind(parts)
    getattr(made, "__dict__", {}).update(getattr(value, "__dict__", {}))
    return made
