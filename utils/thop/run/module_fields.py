"""The attributes of a module's copy: in few steps what every module has, and then what it has been given besides.

A model has hundreds of modules with two dozen attributes each, most of them empty tables of hooks.
"""

from collections import OrderedDict
from functools import lru_cache
from operator import itemgetter
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Protocol, Tuple

import torch
from torch import nn

from .reach import ATOMS, slots_of
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
    return table_to_look_at(module).get(name) if is_uncopied else getattr(module, name)


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


_REGISTRIES = ("_parameters", "_buffers", "_modules")
_OF_EVERY_MODULE = frozenset(nn.Identity().__dict__)
_FORWARD_HOOKS = tuple(
    name for name in nn.Identity().__dict__ if name.startswith("_forward") and name.find("hooks") > 0
)
_forward_hooks: Callable[[Dict[str, Any]], Tuple[Any, ...]] = itemgetter(*_FORWARD_HOOKS)
_OTHER_HOOKS = tuple(name for name in nn.Identity().__dict__ if name.endswith("hooks") and name not in _FORWARD_HOOKS)
_OTHER_TABLES = frozenset(_OTHER_HOOKS)
_other_hooks: Callable[[Dict[str, Any]], Tuple[Any, ...]] = itemgetter(*_OTHER_HOOKS)
"""What a forward pass has nothing to do with, but may add to: a copy shares empty ones, which are emptied again."""
_all_hooks: Callable[[Dict[str, Any]], Tuple[Any, ...]] = itemgetter(*_FORWARD_HOOKS, *_OTHER_HOOKS)


@lru_cache(maxsize=None)
def _stock_attributes() -> Dict[type, FrozenSet[str]]:
    """Return the attributes that the commonest layers have, all of which a copy can share but those of every module."""
    by_size: Tuple[Any, ...] = (
        nn.Linear,
        nn.Conv1d,
        nn.Conv2d,
        nn.ConvTranspose2d,
        nn.LayerNorm,
        nn.BatchNorm1d,
        nn.BatchNorm2d,
    )
    attention = nn.MultiheadAttention(1, 1, device="meta")  # as all here: values would move the random generator
    layers: List[nn.Module] = [nn.SiLU(), nn.ReLU(), nn.GELU(), nn.Dropout(), attention.out_proj]
    for kind in by_size:
        sizes: Tuple[int, ...] = (1, 1, 1) if "Conv" in kind.__name__ else (1, 1) if kind is nn.Linear else (1,)
        layers.append(kind(*sizes, device="meta"))
    return {type(layer): frozenset(layer.__dict__) for layer in layers}


class _Kind:
    """What is asked of a module's class for each of its modules."""

    def __init__(self, kind: type) -> None:
        self.slots = slots_of(kind)
        self.stock = _stock_attributes().get(kind)


class ValueCopier(TableCopier, Protocol):
    """What copies the values of attributes; attribute: the name of the one that is being copied."""

    on_shapes: bool
    training: Optional[bool]
    attribute: str

    def value(self, value: Any) -> Any:
        """Copy any value."""


class ModuleFields:
    """Fills the copies of modules, for one copier."""

    def __init__(self, copier: ValueCopier) -> None:
        self.copier = copier
        self.kinds: Dict[type, _Kind] = {}
        self.shared: List[Dict[str, Any]] = []  # attributes of originals whose other hooks the copies share

    def put_back(self) -> None:
        """Empty the shared tables of hooks again."""
        if any(map(any, map(_other_hooks, self.shared))):
            for originals in self.shared:
                for table in _other_hooks(originals):
                    table.clear()

    def fill(self, original: nn.Module, duplicate: nn.Module) -> None:
        """Copy all attributes of a module; those that can't change are taken over."""
        originals, copies, copier = original.__dict__, duplicate.__dict__, self.copier
        kind = self.kinds.get(type(original))
        if kind is None:
            kind = self.kinds[type(original)] = _Kind(type(original))
        copies.update(originals)
        is_common = kind.stock is not None and copier.on_shapes
        is_stock = is_common and originals.keys() == kind.stock
        whole = is_stock or originals.keys() >= _OF_EVERY_MODULE  # not from an older torch
        hooked = not whole or any(_all_hooks(originals))
        if not hooked or (whole and not any(_forward_hooks(originals))):
            self._fill_tables(originals, copies, is_common)
            if not is_stock:
                self._fill_others(originals, copies, _OF_EVERY_MODULE)
        else:
            self._fill_others(originals, copies, _OTHER_TABLES)
        if hooked and (not whole or any(_other_hooks(originals))):
            copies.update((name, OrderedDict(originals[name])) for name in _OTHER_HOOKS if name in originals)
        else:
            self.shared.append(originals)
        for name in kind.slots:
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

    def _fill_tables(self, originals: Dict[str, Any], copies: Dict[str, Any], later: bool) -> None:
        """Copy what every module has: hooks, of which there are none, and what is registered in it, or ``later``."""
        for name in _FORWARD_HOOKS:
            copies[name] = OrderedDict()  # which a hook's handle can refer to weakly
        copies["_non_persistent_buffers_set"] = set(originals["_non_persistent_buffers_set"])
        copier, memo = self.copier, self.copier.memo
        copier.attribute = ""
        for name in _REGISTRIES:
            table = originals[name]
            if not table:
                copies[name] = {}
            else:
                done = memo.get(id(table))
                if done is None and later and name != "_modules":
                    done = memo[id(table)] = UncopiedTable(copier, table)
                copies[name] = copier.value(table) if done is None else done

    def _fill_others(self, originals: Dict[str, Any], copies: Dict[str, Any], done: FrozenSet[str]) -> None:
        """Copy all attributes but those that are done with."""
        copier, known = self.copier, self.copier.memo.get
        for name, value in originals.items():
            kind = type(value)
            if kind in ATOMS or name in done:
                continue
            if kind in _CONTAINERS and not value:
                copies[name] = kind()
                continue
            if kind is tuple and ATOMS.issuperset(map(type, value)):
                continue
            copy = known(id(value))
            if copy is None:
                copier.attribute = "" if name in _REGISTRIES else name
                copy = copier.value(value)
            copies[name] = copy


_CONTAINERS = frozenset((dict, OrderedDict, set, list))
