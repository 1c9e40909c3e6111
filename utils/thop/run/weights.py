"""Which tensors are weights: parameters and buffers, and what is made of nothing but them.

A matrix product outside of every layer reads a kernel if one of its operands is such a tensor: a merged filter, a
transposed embedding.
"""

from typing import Any

from torch import Tensor, nn

from .nested import tensors_in
from .shape_tensor import ShapeTensor


def mark_weight(tensor: Any) -> None:
    """Note that a tensor of the run is a weight."""
    tensor._of_weights = True


def is_weight(tensor: Tensor) -> bool:
    """Say whether a tensor is a weight."""
    return getattr(tensor, "_of_weights", False) or type(tensor) is nn.Parameter


def pass_on(args: Any, out: Any) -> None:
    """Mark an operator's result if all of its operands are weights, single numbers aside."""
    first = args[0] if args else None
    if type(first) is ShapeTensor:
        if not first._of_weights:
            return
    elif isinstance(first, (list, tuple)):
        first = first[0] if first else None
    if not isinstance(first, Tensor) or not is_weight(first):
        return
    if all(is_weight(tensor) for tensor in tensors_in(args) if tensor.dim()):
        for tensor in tensors_in((out,)):
            mark_weight(tensor)
