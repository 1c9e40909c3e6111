"""A copy of a model for somebody who only looks at it: its own modules, on the memory of the original's weights."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .ambient import Ambient
from .copier import Copier


def light_copy(model: nn.Module) -> Any:
    """Copy a model as ``copy.deepcopy`` does, without the weights' memory, which takes most of the time.

    Parameters are objects of the copy's own that share their values with the model's; buffers, which a forward pass
    in training writes to, are copied. What can't be copied so is copied by ``copy.deepcopy``.
    """
    ambient = Ambient()
    try:
        ambient.set_aside()  # no mode of somebody else's hears of it, nor is in the way
        copier = Copier(_share)
        copier.training = None
        duplicate = copier.copy(model)
        if not copier.husks:  # or it holds an object whose copy would close what is the original's when it dies
            return duplicate
    except Exception:
        pass
    finally:
        ambient.restore()
    return copy.deepcopy(model)


def _share(tensor: Tensor) -> Tensor:
    if type(tensor) is nn.Parameter and tensor.layout is torch.strided:
        duplicate: Tensor = Tensor._make_subclass(nn.Parameter, tensor.detach(), tensor.requires_grad)
        duplicate.__dict__.update(tensor.__dict__)
        return duplicate
    return copy.deepcopy(tensor)
