"""What one call of an operator moves: bytes that it reads and bytes that it writes.

Whether an operator returns a view, or writes in place, is read from its schema. What the schema can't tell stands in
one short registry, with its reasoning for each special case.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Sequence

import torch
from torch import Tensor

from ..run import key_of, tensors_in


class Moved(NamedTuple):
    """Bytes that one call of an operator reads and writes."""

    read: int
    written: int


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements; those in a broadcast axis (stride 0) or in overlapping windows are moved once."""
    if tensor.layout is not torch.strided:
        return sum(map(stored_bytes, _stored_parts(tensor)))
    count = tensor.numel()
    if count and not tensor.is_contiguous():
        extent = 1
        for size, stride in zip(tensor.shape, tensor.stride()):
            extent += (size - 1) * stride
            if stride == 0:
                count //= size
        count = min(count, extent)
    return count * tensor.element_size()


def _stored_parts(tensor: Any) -> List[Tensor]:
    """Return the tensors that a sparse one consists of."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    raise NotImplementedError(f"a tensor of layout {tensor.layout}")


def read_once(tensors: Sequence[Tensor]) -> int:
    """Bytes of several inputs, where the same elements passed twice are read once."""
    if len(tensors) == 1 or any(t.layout is not torch.strided for t in tensors):
        return sum(map(stored_bytes, tensors))
    distinct = {(key_of(t), t.storage_offset(), t.shape, t.stride(), t.dtype): t for t in tensors}
    return sum(map(stored_bytes, distinct.values()))


Charge = Callable[..., Moved]
SPECIAL_CASES: Dict[str, Charge] = {}


def _special_case(*operators: str) -> Callable[[Charge], Charge]:
    """Register what operators move whose schema does not tell; the function takes ``args``, ``kwargs`` and ``out``."""

    def register(charge: Charge) -> Charge:
        for operator in operators:
            SPECIAL_CASES[f"aten::{operator}"] = charge
        return charge

    return register


@_special_case("_unsafe_view", "scalar_tensor", "_fused_sdp_choice")
def _nothing(args: Any, kwargs: Any, out: Any) -> Moved:
    """Memory gets another name, or a Python number the form of a tensor; no element is touched."""
    return Moved(0, 0)


@_special_case("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
def reserved(args: Any, kwargs: Any, out: Any) -> Moved:
    """No element is touched. It has no row: the layers' own forward passes reserve memory in ways of their own."""
    return Moved(0, 0)


@_special_case(
    "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "new_zeros", "new_ones",
    "new_full",
)  # fmt: skip
def made_like(args: Any, kwargs: Any, out: Tensor) -> Moved:
    """The first argument gives its shape alone."""
    return Moved(0, stored_bytes(out))


@_special_case("zero_", "fill_", "normal_", "uniform_", "bernoulli_", "random_", "exponential_")
def _filled(args: Any, kwargs: Any, out: Tensor) -> Moved:
    """What was there before is not looked at."""
    return Moved(read_once(tensors_in(args[1:])) if tensors_in(args[1:]) else 0, stored_bytes(args[0]))


@_special_case("copy_")
def _copied(args: Any, kwargs: Any, out: Tensor) -> Moved:
    """The source is read, the destination only written."""
    return Moved(stored_bytes(args[1]), stored_bytes(args[0]))


@_special_case("embedding", "index_select", "gather", "index", "take", "_unsafe_index")
def _looked_up(args: Any, kwargs: Any, out: Tensor) -> Moved:
    """Of the table only the elements that are returned are read, and the indices that say which."""
    indices = tensors_in(args[1:]) + tensors_in(kwargs.values())
    return Moved(stored_bytes(out) + sum(map(stored_bytes, indices)), stored_bytes(out))


@_special_case("_embedding_bag", "_embedding_bag_forward_only")
def _looked_up_and_reduced(args: Any, kwargs: Any, out: Any) -> Moved:
    """A row of the table for each index, then one result for each bag."""
    weight, indices = args[:2]
    rows = indices.numel() * weight.shape[-1] * weight.element_size()
    return Moved(rows + sum(map(stored_bytes, tensors_in(args[1:]))), sum(map(stored_bytes, tensors_in(out))))


@_special_case("scatter_", "scatter_add_", "scatter_reduce_", "index_add_", "index_copy_", "index_fill_", "index_put_")
def _scattered(args: Any, kwargs: Any, out: Any) -> Moved:
    """Values and indices are read, and as many elements written as there are values."""
    given = tensors_in(args[1:]) + tensors_in(kwargs.values())
    values = [t for t in given if t.dtype is args[0].dtype] or given
    touched = max(t.numel() for t in (given if len(values) == len(given) else values)) * args[0].element_size()
    return Moved(sum(map(stored_bytes, given)), touched)


@_special_case(
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def _attended(args: Any, kwargs: Any, out: Any) -> Moved:
    """The fused kernel keeps the attention matrix to itself: queries, keys, values and mask in, the result out.

    What else it returns is for a backward pass.
    """
    return Moved(read_once(tensors_in(args) + tensors_in(kwargs.values())), stored_bytes(tensors_in((out,))[0]))


POOLS_WITH_INDICES = frozenset(
    f"aten::{name}" for name in ("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d",
                                 "adaptive_max_pool3d", "fractional_max_pool2d", "fractional_max_pool3d")
)  # fmt: skip
DATA_DEPENDENT = {
    "aten::grid_sampler_2d": "every input element is read once",
    "aten::grid_sampler_3d": "every input element is read once",
    "aten::_native_multi_head_attention": "inputs are read and the result written; what lies between is not charged",
    "aten::_transformer_encoder_layer_fwd": "inputs are read and the result written; what lies between is not charged",
}
NO_FORMULA = "its arithmetic has no formula, and counts as no FLOPs"
ASSUMED_ONCE = "every input is read once and every result written once"
