"""A copy of a model for somebody who asks for one to look at: made when it is first used, with memory of its own."""

import copy
from contextlib import contextmanager
from typing import Any, Iterator

import torch
from torch import nn

from .ambient import Ambient
from .reach import has_own_construction
from .torch_private import COMPILED_CALL


def light_copy(model: nn.Module) -> Any:
    """Return what stands for ``copy.deepcopy(model)``, an object of the same class, and empty until it is used.

    Most checkouts only hand it on to thop, and are spared the copy; to whoever looks at it, or writes to it, it is what
    ``copy.deepcopy`` makes.
    """
    kind: Any = type(model)
    if isinstance(model, torch.jit.ScriptModule):
        with own_way_aside(model):
            return copy.deepcopy(model)

    def use(self: Any, name: str) -> Any:
        object.__setattr__(self, "__class__", kind)
        _fill(model, self)
        return getattr(self, name)

    try:
        return object.__new__(type(kind)(kind.__name__, (kind,), {"__getattribute__": use, "__module__": __name__}))
    except Exception:  # a class that will have no subclass, or none like this
        with own_way_aside(model):
            return copy.deepcopy(model)


def is_unused(duplicate: Any, model: nn.Module) -> bool:
    """Say whether a light copy of a model has not been looked at yet."""
    return type(duplicate) is not type(model) and type(duplicate).__module__ == __name__


def _fill(model: nn.Module, duplicate: Any) -> None:
    ambient = Ambient()
    try:
        ambient.set_aside()  # no mode of somebody else's hears of it, nor is in the way
        with own_way_aside(model):
            if has_own_construction(type(model)):
                vars(duplicate).update(vars(copy.deepcopy(model)))
            else:  # what refers to the model refers to this copy of it
                state = {**vars(model), COMPILED_CALL: None}
                vars(duplicate).update(copy.deepcopy(state, {id(model): duplicate}))
    finally:
        ambient.restore()


@contextmanager
def own_way_aside(model: nn.Module) -> Iterator[None]:
    """Take a model's own attribute ``__deepcopy__`` off for a while: it may be what leads here."""
    own_way = vars(model).pop("__deepcopy__", None)
    try:
        yield
    finally:
        if own_way is not None:
            vars(model)["__deepcopy__"] = own_way
