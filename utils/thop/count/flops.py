"""What operators multiply: one formula for each operator that sums products, for both ledgers.

A formula takes an operator's ``args``, ``kwargs`` and result, and returns its multiply-accumulates; FLOPs are two for
each. PyTorch's own registry, ``torch.utils.flop_counter``, goes first, with what users have entered there by
``register_flop_formula``; what it lacks stands here. Adding an operator touches one place.

An operator that has neither must be known to sum no products: element-wise ones, reductions and what moves data do
not. Any other has its name in the result, never a silent zero.
"""

from functools import lru_cache
from math import prod
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ..run import map_tensors, tensors_in

Formula = Callable[[Any, Any, Any], int]


class Product(NamedTuple):
    """How an operator's products are counted.

    formula: multiply-accumulates; operands: positions of the two that are multiplied; weight: positions of those that
    are weights whatever they come from, such as a convolution's filters.
    """

    formula: Formula
    operands: Tuple[int, ...] = ()
    weight: Tuple[int, ...] = ()


PRODUCTS: Dict[str, Product] = {}


def sums_products(
    *operators: str, operands: Tuple[int, ...] = (0, 1), weight: Tuple[int, ...] = ()
) -> Callable[[Formula], Formula]:
    """Register a formula for operators, by their names in schemas, without a namespace for ATen's."""

    def register(count: Formula) -> Formula:
        for operator in operators:
            name = operator if "::" in operator else f"aten::{operator}"
            PRODUCTS[name] = Product(count, operands, weight)
        return count

    return register


def _elements(out: Any) -> int:
    """Elements of the first result."""
    return tensors_in((out,))[0].numel()


@sums_products("linalg_vecdot")
def _vector_products(args: Any, kwargs: Any, out: Any) -> int:
    """Each element of the result sums one product for each element of an axis, the last one by default."""
    return _elements(out) * torch.broadcast_shapes(args[0].shape, args[1].shape)[kwargs.get("dim", -1)]


@sums_products("mm", "bmm", "mv", "dot", "vdot", "_int_mm", "_scaled_mm", "_sparse_mm", "linear",
               "mkldnn_linear", "_cdist_forward", "_pdist_forward", "_euclidean_dist")  # fmt: skip
@sums_products("_weight_int4pack_mm", "_weight_int8pack_mm", "_weight_int4pack_mm_for_cpu", weight=(1,))
@sums_products("affine_grid_generator", operands=(0,))
def _matrix_product(args: Any, kwargs: Any, out: Any) -> int:
    """a @ b: each element of the result sums one product for each element of a's last axis.

    So it does where b is packed; a distance sums a power of a difference for each of the vectors' elements; a grid has
    a point for each output element, with a one added, by the rows of a matrix, (N, 2, 3) or (N, 3, 4).
    """
    return _elements(out) * args[0].shape[-1]


@sums_products("addmm", "baddbmm", "addmv", "_addmm_activation", "_sparse_addmm", operands=(1, 2))
def _sum_and_matrix_product(args: Any, kwargs: Any, out: Any) -> int:
    """c + a @ b."""
    return _elements(out) * args[1].shape[-1]


@sums_products("addbmm", operands=(1, 2))
def _sum_of_matrix_products(args: Any, kwargs: Any, out: Any) -> int:
    """c + the sum over a batch of a @ b: (B, N, M) by (B, M, P) to (N, P)."""
    return _elements(out) * args[1].shape[0] * args[1].shape[-1]


@sums_products("_grouped_mm", "_scaled_grouped_mm", weight=(1,))
def _grouped_matrix_product(args: Any, kwargs: Any, out: Any) -> int:
    """Rows are multiplied by the matrix of their group, one for each row: (S, K) by (G, K, N) to (S, N).

    Where both are 2-d, the groups cut the summed axis, and each product is summed in one of them: (M, K) by (K, N) to
    (G, M, N) has M x K x N products. All other forms have as many as the result's elements times K.
    """
    first, second = args[0], args[1]
    if first.dim() == 2 and second.dim() == 2:
        return first.shape[0] * first.shape[1] * second.shape[-1]
    return _elements(out) * first.shape[-1]


@sums_products("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution", "thnn_conv2d",
               "_slow_conv2d_forward", "slow_conv3d_forward", "slow_conv_dilated2d", "slow_conv_dilated3d",
               "_conv_depthwise2d", "conv_depthwise3d", "_nnpack_spatial_convolution", "torchvision::deform_conv2d",
               weight=(1,))  # fmt: skip
def _convolution(args: Any, kwargs: Any, out: Any) -> int:
    """Each output sums one filter's elements; transposed, each input is scattered into one filter's elements.

    That a deformable one's samples are interpolated is not counted, as in ``grid_sample``.
    """
    transposed = len(args) > 6 and args[6] is True
    filters = args[1]
    return (args[0].numel() if transposed else _elements(out)) * prod(filters.shape[1:])


@sums_products("cosine_similarity")
def _cosine_similarity(args: Any, kwargs: Any, out: Any) -> int:
    """The two vectors, which may be broadcast, are multiplied along one axis; their norms are no products."""
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 1)
    return _elements(out) * torch.broadcast_shapes(args[0].shape, args[1].shape)[dim]


@sums_products("cosine_embedding_loss")
def _cosine_embedding_loss(args: Any, kwargs: Any, out: Any) -> int:
    """The same of each pair of rows, whose results are averaged."""
    return prod(torch.broadcast_shapes(args[0].shape, args[1].shape))


@sums_products("conv_tbc", weight=(1,))
def _convolution_in_time(args: Any, kwargs: Any, out: Any) -> int:
    """Filters are (kernel, Cin, Cout), and each output sums kernel x Cin products."""
    return _elements(out) * prod(args[1].shape[:2])


@sums_products("_trilinear", operands=(0, 2), weight=(1,))
def _bilinear(args: Any, kwargs: Any, out: Any) -> int:
    """x1 A x2: each output contracts in1 x in2 with the first operand, then in2 with the other."""
    weight = args[1]
    return _elements(out) * (weight.shape[-2] + 1) * weight.shape[-1]


@sums_products(
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def _attention(args: Any, kwargs: Any, out: Any) -> int:
    """Queries by keys, then the result by values: (..., L, E), (..., S, E) and (..., S, V) to (..., L, V)."""
    query, key, value = args[:3]
    return _elements(out) // value.shape[-1] * key.shape[-2] * (query.shape[-1] + value.shape[-1])


@sums_products("_scaled_dot_product_flash_attention_for_cpu_backward", operands=(1, 2))
def _attention_backward(args: Any, kwargs: Any, out: Any) -> int:
    """The attention matrix once more, then the gradients of itself, values, queries and keys: five products."""
    query, key, value = args[1:4]
    return query.numel() // query.shape[-1] * key.shape[-2] * (3 * query.shape[-1] + 2 * value.shape[-1])


def _positions(args: Any) -> Tuple[int, Any]:
    """Return the steps times the samples of a recurrent operator's input, and its weights, by its two forms."""
    if isinstance(args[2], (list, tuple)):  # input, states, weights ...
        return args[0].numel() // max(args[0].shape[-1], 1), args[2]
    return args[0].shape[0], args[3]  # data, batch_sizes, states, weights ...


@sums_products("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(args: Any, kwargs: Any, out: Any) -> int:
    """Every weight matrix multiplies one vector at each step of each sample."""
    positions, weights = _positions(args)
    return positions * sum(weight.numel() for weight in weights if weight.dim() == 2)


@sums_products("mkldnn_rnn_layer", weight=(1, 2))
def _recurrent_layer(args: Any, kwargs: Any, out: Any) -> int:
    """One layer, one direction: (T, N, I) by the matrices of input and state."""
    return args[0].shape[0] * args[0].shape[1] * (args[1].numel() + args[2].numel())


@sums_products("_cudnn_rnn", "miopen_rnn")
def _recurrent_on_cuda(args: Any, kwargs: Any, out: Any) -> int:
    """As the recurrent operators."""
    positions = args[0].numel() // max(args[0].shape[-1], 1)
    return positions * sum(weight.numel() for weight in args[1] if weight.dim() == 2)


PRODUCTS_IN_DISGUISE = frozenset(("aten::linalg_vecdot", "aten::cosine_similarity", "aten::cosine_embedding_loss"))
"""Operators that PyTorch takes apart into a product element by element and a sum, which by themselves are none."""


def weights_of(product: Product, args: Any, is_weight: Callable[[Tensor], bool]) -> int:
    """Return the elements of a product's weights: those that it always has, or operands that are some."""
    if product.formula is _recurrent:
        return sum(weight.numel() for weight in _positions(args)[1] if weight.dim() == 2)
    tensors = [args[i] for i in product.operands if i < len(args)]
    if tensors and all(isinstance(t, Tensor) and is_weight(t) for t in tensors):
        return 0  # weights are made of weights: that is not a layer's reading of its kernel
    always = [args[i] for i in product.weight if i < len(args)]
    maybe = [args[i] for i in product.operands if i not in product.weight and i < len(args)]
    return sum(t.numel() for t in always if isinstance(t, Tensor)) + sum(
        t.numel() for t in maybe if isinstance(t, Tensor) and is_weight(t)
    )


# ---- PyTorch's registry ----


def product_of(func: Any) -> Optional[Product]:
    """Return how an operator's products are counted, by PyTorch's registry or ours; None where it has no formula."""
    own = PRODUCTS.get(func._schema.name)
    registry = flop_registry()
    formula = registry.get(func._overloadpacket, registry.get(func))  # torch before 2.5 enters users' by overload
    if formula is None:
        return own
    count = _halved(formula)
    if own is None:
        return Product(count, operands=tuple(range(2)))
    return own._replace(formula=count)


@lru_cache(maxsize=None)  # one that fails is sought anew each time, and an interrupt can leave its lock taken
def flop_registry() -> Dict[Any, Any]:
    """Return PyTorch's table of formulas, and those that users have entered there."""
    try:
        from torch.utils.flop_counter import flop_registry
    except ImportError:  # torch before 2.1
        return {}
    return flop_registry


def _halved(formula: Any) -> Formula:
    """Turn a FLOP formula into one of multiply-accumulates; most take shapes in place of tensors."""
    on_shapes = getattr(formula, "__wrapped__", None)

    def count(args: Any, kwargs: Any, out: Any) -> int:
        if on_shapes is None:
            return int(formula(*args, **kwargs, out_val=out)) // 2
        return int(on_shapes(*_shapes(args), **_shapes(kwargs), out_shape=_shapes(out))) // 2

    return count


def _shapes(value: Any) -> Any:
    return map_tensors(value, lambda tensor: tensor.shape)
