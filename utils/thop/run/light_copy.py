"""A copy of a model for somebody who asks for one to look at: made when it is first used, on the originals' weights."""

import copy
from contextlib import contextmanager
from typing import Any, Iterator

import torch
from torch import Tensor, nn

from .ambient import Ambient
from .copier import Copier


def light_copy(model: nn.Module) -> Any:
    """Return what stands for ``copy.deepcopy(model)``, an object of the same class, and empty until it is used.

    Then it is a copy, without the weights' memory, which takes most of the time: parameters are objects of its own
    that share their values with the model's; buffers, which a forward pass in training writes to, are copied. What
    can't be copied so is copied by ``copy.deepcopy``, at once.
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
            if not _copied(model, duplicate):
                vars(duplicate).update(vars(copy.deepcopy(model)))
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


def _copied(model: nn.Module, duplicate: Any) -> bool:
    copier = Copier(_share)
    copier.training = None
    try:
        copier.copy_into(model, duplicate)
    except Exception:
        return False
    return not copier.husks  # an object whose copy would close what is the original's when it dies


def _share(tensor: Tensor) -> Tensor:
    kind = type(tensor)
    if kind is nn.Parameter and tensor.layout is torch.strided:
        duplicate: Tensor = Tensor._make_subclass(nn.Parameter, tensor.detach(), tensor.requires_grad)
    elif kind is Tensor and tensor.is_leaf and not tensor.requires_grad:
        duplicate = tensor.clone()
    else:
        return copy.deepcopy(tensor)
    if tensor.__dict__:
        duplicate.__dict__.update(tensor.__dict__)
    return duplicate
