"""A shadow of a model: a structural copy that can be run, hooked and written to in the model's place.

It is made of new module objects of the same classes, with copied containers, tensors and hooks; bound methods and
closures that reached into the model reach into the copy.
"""

import copy
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, List, Set, Tuple

import torch
from torch import Tensor, nn

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap(model: nn.Module) -> nn.Module:
    """Take a model out of DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, _PARALLEL):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return model


@dataclass
class Replica:
    """A copy of a model: all modules in it, and those that no ``_modules`` holds (plain lists, helpers' attributes).

    unregistered: (attribute, module) pairs by the id of the module that owns the attribute.
    """

    model: nn.Module
    modules: List[nn.Module] = field(default_factory=list)
    unregistered: Dict[int, List[Tuple[str, nn.Module]]] = field(default_factory=dict)


class Copier:
    """Copies a module tree; ``memo`` maps ids of originals to copies, in the form ``copy.deepcopy`` reads."""

    def __init__(self, copy_tensor: Callable[[Tensor], Tensor]) -> None:
        self.copy_tensor = copy_tensor
        self.memo: Dict[int, Any] = {}
        self.modules: List[nn.Module] = []
        self.ordinary: Set[type] = set()
        self.unregistered: Dict[int, List[Tuple[str, nn.Module]]] = {}
        self.owner: nn.Module
        self.attribute = ""

    def replica(self, model: nn.Module) -> Replica:
        """Copy a whole model."""
        return Replica(self.value(model), self.modules, self.unregistered)

    def value(self, value: Any) -> Any:
        """Return the copy of any value that a module's attributes can hold."""
        kind = type(value)
        if kind in _ATOMS:
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
        return self.other(value)

    def remember(self, original: Any, duplicate: Any) -> Any:
        """Enter a finished copy, and keep the original alive as long as its id is in use."""
        self.memo[id(original)] = duplicate
        return duplicate

    def module(self, original: nn.Module) -> nn.Module:
        """Copy a module with all its attributes, in evaluation mode."""
        kind = type(original)
        if kind not in self.ordinary:
            wrapped = unwrap(original)
            if wrapped is not original:
                return self.remember(original, self.value(wrapped))
            if isinstance(original, torch.jit.ScriptModule):
                duplicate = copy.deepcopy(original, self.memo)
                self.modules.append(duplicate)
                return self.remember(original, duplicate)
            self.ordinary.add(kind)
        duplicate = original.__new__(kind)
        self.memo[id(original)] = duplicate
        self.modules.append(duplicate)
        if self.attribute:
            self.unregistered.setdefault(id(self.owner), []).append((self.attribute, duplicate))
        outer = getattr(self, "owner", None), self.attribute
        self.owner = duplicate
        self._copy_attributes(original.__dict__, duplicate.__dict__)
        self.owner, self.attribute = outer  # type: ignore[assignment]
        return duplicate

    def _copy_attributes(self, originals: Dict[str, Any], copies: Dict[str, Any]) -> None:
        """Copy all attributes of a module; those that can't change are taken over."""
        copies.update(originals)
        known = self.memo.get
        for name, value in originals.items():
            kind = type(value)
            if kind in _ATOMS or (kind is tuple and _ATOMS.issuperset(map(type, value))):
                continue
            if kind in _CONTAINERS and not value:  # most of a module's attributes are empty tables of hooks
                copies[name] = kind()
                continue
            done = known(id(value))
            if done is None:
                self.attribute = "" if name in _REGISTRIES else name
                handler = _HANDLERS.get(kind)
                done = self.value(value) if handler is None else handler(self, value)
            copies[name] = done
        if copies.get("_compiled_call_impl") is not None:
            copies["_compiled_call_impl"] = None
        copies["training"] = False

    def mapping(self, original: Any) -> Any:
        """Copy a dict or OrderedDict."""
        memo = self.memo
        duplicate = memo[id(original)] = type(original)()
        for key, value in original.items():
            kind = type(value)
            if kind is nn.Parameter or kind is Tensor:
                done = memo.get(id(value))
                if done is None:
                    done = memo[id(value)] = self.copy_tensor(value)
                duplicate[key] = done
            elif kind in _ATOMS:
                duplicate[key] = value
            else:
                duplicate[key] = self.value(value)
        return duplicate

    def tensor(self, original: Tensor) -> Tensor:
        """Copy a tensor, once."""
        done = self.memo.get(id(original))
        return self.remember(original, self.copy_tensor(original)) if done is None else done

    def default_mapping(self, original: Any) -> Any:
        """Copy a defaultdict, its factory included."""
        duplicate = self.remember(original, defaultdict(self.value(original.default_factory)))
        for key, value in original.items():
            duplicate[key] = self.value(value)
        return duplicate

    def sequence(self, original: Any) -> Any:
        """Copy a list, deque or set; it is entered first, since it may hold itself."""
        duplicate = self.remember(original, type(original)())
        add = duplicate.add if isinstance(duplicate, set) else duplicate.append
        outer = self.attribute
        for index, value in enumerate(original):
            self.attribute = f"{outer}[{index}]" if outer else ""
            add(self.value(value))
        self.attribute = outer
        return duplicate

    def tuple(self, original: Tuple[Any, ...]) -> Tuple[Any, ...]:
        """Copy a tuple; the same object where nothing in it has changed."""
        if _ATOMS.issuperset(map(type, original)):
            return original
        outer = self.attribute
        parts = []
        for index, value in enumerate(original):
            self.attribute = f"{outer}[{index}]" if outer else ""
            parts.append(self.value(value))
        self.attribute = outer
        if all(a is b for a, b in zip(parts, original)):
            return original
        return self.remember(original, tuple(parts))

    def method(self, original: types.MethodType) -> Any:
        """Bind the method to the copy of its object; a module's forward will be the one that it has when called."""
        owner = self.value(original.__self__)
        function = original.__func__
        if isinstance(owner, nn.Module) and function is type(owner).forward and self.attribute != "forward":
            function = _call_forward
        return types.MethodType(function, owner)

    def function(self, original: types.FunctionType) -> Any:
        """Copy a function whose closure or defaults reach into the model; any other one is shared."""
        cells = original.__closure__ or ()
        contents = [self._cell(cell) for cell in cells]
        defaults = self.value(original.__defaults__)
        keyword_defaults = self.value(original.__kwdefaults__)
        reached = any(new is not old for new, old in contents) or defaults is not original.__defaults__
        if not reached and keyword_defaults is None:
            return original
        closure = tuple(types.CellType(new) if new is not old else cell for (new, old), cell in zip(contents, cells))
        duplicate = types.FunctionType(
            original.__code__, original.__globals__, original.__name__, defaults, closure or None
        )
        duplicate.__kwdefaults__ = keyword_defaults
        duplicate.__dict__.update(original.__dict__)
        return self.remember(original, duplicate)

    def _cell(self, cell: Any) -> Tuple[Any, Any]:
        try:
            content = cell.cell_contents
        except ValueError:  # a name that is not bound yet
            return None, None
        return self.value(content), content

    def partial(self, original: Any) -> Any:
        """Copy a functools.partial."""
        keywords = {name: self.value(value) for name, value in original.keywords.items()}
        return partial(self.value(original.func), *map(self.value, original.args), **keywords)

    def weak_reference(self, original: Any) -> Any:
        """Refer to the copy of the object."""
        target = original()
        return original if target is None else weakref.ref(self.value(target))

    def other(self, original: Any) -> Any:
        """Copy any other object; what can't be copied (a lock, a file, a process group) is shared."""
        try:
            if _is_plain(type(original)):
                duplicate = self.remember(original, object.__new__(type(original)))
                for name, value in original.__dict__.items():
                    duplicate.__dict__[name] = self.value(value)
                return duplicate
            return copy.deepcopy(original, self.memo)
        except Exception:
            return original


def _is_plain(kind: type) -> bool:
    """Say whether instances are nothing but their ``__dict__``, so that they can be copied by attributes."""
    return (
        kind.__new__ is object.__new__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and getattr(kind, "__getstate__", None) is getattr(object, "__getstate__", None)
        and not hasattr(kind, "__deepcopy__")
        and not hasattr(kind, "__slots__")
        and hasattr(kind, "__dict__")
        and bool(kind.__dictoffset__)
    )


def _call_forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module.forward(*args, **kwargs)


_CONTAINERS = frozenset((dict, OrderedDict, set, list))
_REGISTRIES = frozenset(("_parameters", "_buffers", "_modules"))
_ATOMS = frozenset(
    (int, float, str, bool, bytes, complex, type(None), type, torch.dtype, torch.device, torch.Size)
    + (types.BuiltinFunctionType, types.ModuleType)
)
_HANDLERS: Dict[type, Callable[[Copier, Any], Any]] = {
    dict: Copier.mapping,
    OrderedDict: Copier.mapping,
    defaultdict: Copier.default_mapping,
    list: Copier.sequence,
    set: Copier.sequence,
    deque: Copier.sequence,
    tuple: Copier.tuple,
    types.MethodType: Copier.method,
    types.FunctionType: Copier.function,
    partial: Copier.partial,
    weakref.ReferenceType: Copier.weak_reference,
}
