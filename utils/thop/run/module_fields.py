"""The attributes of a module's copy: in few steps what every module has, and then what it has been given besides.

A model has hundreds of modules with two dozen attributes each, most of them empty tables of hooks.
"""

from collections import OrderedDict
from typing import Any, Callable, Dict, Optional, Protocol

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from .reach import ATOMS, per_class, slots_of
from .torch_private import COMPILED_CALL, UninitializedTensorMixin


class TableCopier(Protocol):
    """What copies tables of tensors; memo: the copies that there are, by the originals' ids."""

    memo: Dict[int, Any]

    def table(self, original: Any) -> Any:
        """Copy a table."""


class UncopiedTable(Dict[str, Any]):
    """A module's table of parameters or buffers, empty until it is used; then it holds copies, as any copied table.

    originals: the table of the original, until then.
    """

    __slots__ = ("copier", "originals")

    def __init__(self, copier: TableCopier, originals: Dict[str, Any]) -> None:
        self.copier: Optional[TableCopier] = copier
        self.originals: Optional[Dict[str, Any]] = originals

    def copy_now(self) -> None:
        """Fill the table."""
        copier, originals = self.copier, self.originals
        self.copier = self.originals = None
        if copier is not None and originals is not None:
            dict.update(self, copier.table(originals))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Let copies of it be ordinary tables."""
        return dict, (), None, None, iter(self.items())


def _of_a_table(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def use(self: UncopiedTable, *args: Any, **kwargs: Any) -> Any:
        if self.originals is not None:
            self.copy_now()
        return method(self, *args, **kwargs)

    use.__name__ = name
    return use


for _name in dir(dict):
    if callable(getattr(dict, _name)) and _name not in dir(object):
        setattr(UncopiedTable, _name, _of_a_table(_name))
for _name in ("__eq__", "__ne__", "__repr__"):
    setattr(UncopiedTable, _name, _of_a_table(_name))


def table_to_look_at(module: nn.Module, table: str = "_parameters") -> Dict[str, Any]:
    """Return a module's table of parameters or buffers, to look at their properties and nothing else."""
    held: Any = module.__dict__[table]
    originals = held.originals if type(held) is UncopiedTable else None
    return held if originals is None else originals  # type: ignore[no-any-return]


def look_at(module: nn.Module, name: str) -> Any:
    """Return a module's parameter, or whatever it has under the name, to look at its properties and nothing else."""
    is_uncopied = type(module.__dict__.get("_parameters")) is UncopiedTable
    held = table_to_look_at(module) if is_uncopied else {}
    return held[name] if name in held else getattr(module, name)


def is_unread(module: nn.Module) -> bool:
    """Say whether nobody has asked a copied module for its parameters yet."""
    table: Any = module.__dict__.get("_parameters")
    return type(table) is UncopiedTable and table.originals is not None


def parameter_sizes(module: nn.Module) -> Dict[int, int]:
    """Return the elements of a module's own parameters by identity, which in a copy is that of the original.

    Those of lazy layers have none before they are run.
    """
    table: Any = module.__dict__.get("_parameters")
    if type(table) is UncopiedTable and table.originals is not None:
        return {id(p): p.numel() for p in table.originals.values() if p is not None}
    if type(table) is not dict and isinstance(module, torch.jit.ScriptModule):
        return {id(p): p.numel() for _, p in module.named_parameters(recurse=False)}
    if not table:
        return {}
    return {
        getattr(p, "_copied_from", None) or id(p): p.numel()
        for p in table.values()
        if type(p) is nn.Parameter or (p is not None and not isinstance(p, UninitializedTensorMixin))
    }


def lacks_shapes(module: nn.Module) -> bool:
    """Say whether some of a module's own parameters have no shape before it is run."""
    table: Any = module._parameters
    if type(table) is UncopiedTable or not table:
        return False
    return any(isinstance(p, UninitializedTensorMixin) for p in table.values())


_TENSORS = ("_parameters", "_buffers")
_REGISTRIES = (*_TENSORS, "_modules")
_CONTAINERS = frozenset((dict, OrderedDict, set, list))


@per_class
def _is_of_pytorch(kind: type) -> bool:
    """Say whether a layer's code is PyTorch's own, which asks its tables for a dict's answers; lazy ones fill them."""
    is_listed = getattr(nn, kind.__name__, None) is kind and kind.__module__.startswith("torch.nn.modules.")
    return is_listed and not issubclass(kind, LazyModuleMixin)


class ValueCopier(TableCopier, Protocol):
    """What copies the values of attributes; attribute: the name of the one that is being copied."""

    on_shapes: bool
    training: Optional[bool]
    attribute: str

    def value(self, value: Any) -> Any:
        """Copy any value."""


def fill_module(copier: ValueCopier, original: nn.Module, duplicate: nn.Module) -> None:
    """Copy all attributes of a module; those that can't change are taken over."""
    originals, copies, known = original.__dict__, duplicate.__dict__, copier.memo.get
    copies.update(originals)
    later = _TENSORS if copier.on_shapes and _is_of_pytorch(type(original)) else ()
    for name, value in [(name, value) for name, value in originals.items() if type(value) not in ATOMS]:
        kind = type(value)
        if kind in _CONTAINERS and not value:
            copies[name] = kind()
        elif kind is not tuple or not ATOMS.issuperset(map(type, value)):
            copy = known(id(value))
            if copy is None and name in later:
                copy = copier.memo[id(value)] = UncopiedTable(copier, value)
            elif copy is None:
                copier.attribute = "" if name in _REGISTRIES else name
                copy = copier.value(value)
            copies[name] = copy
    for name in slots_of(type(original)):
        if hasattr(original, name):
            object.__setattr__(duplicate, name, copier.value(getattr(original, name)))
    watched = copies.get("forward")
    if watched is not None and hasattr(watched, "unwatched_forward"):  # the copy of a copy: a run inside of a run
        del copies["forward"]
        if watched.unwatched_forward is not None:
            copies["forward"] = copier.value(watched.unwatched_forward)
    if copies.get(COMPILED_CALL) is not None:
        copies[COMPILED_CALL] = None
    if copier.training is not None:
        copies["training"] = copier.training
