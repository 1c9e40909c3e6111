"""How a run copies tensors: as shapes, or for real."""

import copy
from contextlib import suppress
from typing import Any, Callable, Optional

import torch
from torch import Tensor, nn

from .dispatch import SMALL, OperatorMode
from .inputs import NotCountable
from .shape_tensor import CPU, META, NeedsValues, ShapeTensor, mark_weight, shape_tensor, without_values
from .torch_private import UninitializedTensorMixin, make_alias, no_torch_dispatch

_SMALL_BUFFER = 4096
"""Elements up to which a buffer, or a tensor that is a plain attribute, keeps its values."""
_SMALL_PARAMETER = 16
"""The same for parameters, whose values hardly ever decide anything."""

_Buffer = getattr(nn, "Buffer", None)
CopyTensor = Callable[[Tensor], Tensor]


MODEL, INPUTS, ELSEWHERE = "model", "inputs", "elsewhere"
"""Whose a tensor is: the model's, among its inputs, or held by what its code reaches besides."""
_LARGEST = {MODEL: _SMALL_BUFFER, INPUTS: -1, ELSEWHERE: SMALL}


def shape_copies(mode: OperatorMode, whose: str = MODEL) -> CopyTensor:
    """Return what copies a tensor without its values, or with them if it is a small one and no input."""
    of_model = whose == MODEL
    largest_parameter = -1 if mode.with_gradients or whose == INPUTS else _SMALL_PARAMETER  # which are written to
    largest_buffer = _LARGEST[whose]

    def copy_tensor(tensor: Tensor) -> Tensor:
        kind = type(tensor)
        if kind is nn.Parameter:
            if tensor.numel() <= largest_parameter and _is_ordinary(tensor):
                duplicate = make_alias(nn.Parameter, _clone(tensor), tensor.requires_grad)
            else:
                duplicate = without_values(tensor)
                duplicate._is_param = True
        elif kind is Tensor or kind is ShapeTensor or kind is _Buffer:
            trained = tensor.requires_grad and mode.with_gradients
            if kind is not ShapeTensor and tensor.numel() <= largest_buffer and _is_ordinary(tensor) and not trained:
                duplicate = _clone(tensor)
            else:
                duplicate = without_values(tensor)
            if kind is _Buffer:
                duplicate._is_buffer = True  # type: ignore[attr-defined]
        else:
            return _other_copy(tensor)
        mode.own(duplicate)
        if of_model or kind is nn.Parameter:
            mark_weight(duplicate)
            if kind is nn.Parameter:
                duplicate._copied_from = id(tensor)  # type: ignore[attr-defined]
        return duplicate

    return copy_tensor


def _clone(tensor: Tensor) -> Tensor:
    """Copy a small tensor with its values, unheard: parameters may be copied while the run goes on."""
    with no_torch_dispatch():
        return tensor.detach().clone()


def _is_ordinary(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_nested)


def _other_copy(tensor: Any) -> Tensor:
    """Copy a tensor of a class of its own, if there is a way."""
    if isinstance(tensor, UninitializedTensorMixin):
        return _uninitialized_copy(tensor, META)
    refuse_distributed(tensor)
    kind = type(tensor)
    if kind.__name__ == "FakeTensor":
        device = CPU if tensor.device.type == "meta" else tensor.device
        return shape_tensor(tensor.shape, tensor.stride(), tensor.dtype, device, tensor.requires_grad)
    raise NeedsValues(f"a {kind.__name__} of layout {tensor.layout} and dtype {tensor.dtype}")


def refuse_distributed(tensor: Tensor) -> None:
    """Raise NotCountable for a tensor that lies on several ranks, whose operators would wait for the others."""
    if any(base.__name__ == "DTensor" for base in type(tensor).__mro__):
        raise NotCountable("the model's tensors are spread over a device mesh (DTensor): count it before it is sharded")


def real_copies(mode: OperatorMode, whose: str = MODEL) -> CopyTensor:
    """Return what copies a tensor with its values."""

    def copy_tensor(tensor: Tensor) -> Tensor:
        refuse_distributed(tensor)
        if type(tensor) is ShapeTensor:
            raise NeedsValues("a real run of what is itself run without values")
        if isinstance(tensor, UninitializedTensorMixin):
            return _uninitialized_copy(tensor, None)
        duplicate = _deep_copy(tensor)
        mode.own(duplicate)
        if whose == MODEL or isinstance(tensor, nn.Parameter):
            mark_weight(duplicate)
        return duplicate

    return copy_tensor


def _deep_copy(tensor: Tensor) -> Tensor:
    """Copy a tensor with its values; also one of a class that ``copy.deepcopy`` can't make another of."""
    if tensor.is_leaf:
        with suppress(RuntimeError):
            return copy.deepcopy(tensor)
    duplicate = tensor.detach().clone()
    duplicate = duplicate if type(duplicate) is type(tensor) else duplicate.as_subclass(type(tensor))
    return duplicate.requires_grad_(tensor.requires_grad and tensor.is_leaf)


def _uninitialized_copy(tensor: Any, device: Optional[torch.device]) -> Tensor:
    """Copy a lazy layer's parameter or buffer, which ``copy.deepcopy`` can't do for buffers."""
    storage = tensor.data
    return type(tensor)(requires_grad=tensor.requires_grad, device=device or storage.device, dtype=storage.dtype)
