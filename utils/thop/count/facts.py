"""What is known of an operator, looked up once: what it does, multiplies and moves, and what had to be assumed."""

from typing import Any, Dict, NamedTuple, Optional

import torch

from ..run import Effects, effects_of, words
from .bytes import ASSUMED_ONCE, DATA_DEPENDENT, NO_FORMULA, POOLS_WITH_INDICES, SPECIAL_CASES, Charge, reserved
from .flops import Product, flop_registry, product_of

# ---- what kinds of operators there are ----

ELEMENTWISE, MOVES, NOTHING, OTHER, MULTIPLIES, UNKNOWN = "elementwise", "moves", "nothing", "other", "products", ""
"""What kinds of operators there are. OTHER: known to sum no products, and neither element-wise nor only moving."""


_ELEMENTWISE = words(
    "add sub rsub mul div remainder fmod pow square sqrt rsqrt exp exp2 expm1 log log2 log10 log1p abs sign neg "
    "reciprocal floor ceil round trunc frac clamp clamp_min clamp_max maximum minimum fmax fmin sin cos tan asin "
    "acos atan atan2 sinh cosh tanh asinh acosh atanh erf erfc erfinv sigmoid silu relu relu6 leaky_relu elu "
    "celu selu gelu mish hardtanh hardswish hardsigmoid hardshrink softshrink softplus threshold prelu "
    "_prelu_kernel rrelu_with_noise glu log_sigmoid_forward logit lerp addcmul addcdiv where masked_fill "
    "bitwise_and bitwise_or bitwise_xor bitwise_not logical_and logical_or logical_xor logical_not eq ne lt le "
    "gt ge isnan isinf isfinite nan_to_num hypot logaddexp logaddexp2 copysign sgn heaviside xlogy "
    "special_xlog1py native_dropout bernoulli dropout polar angle conj_physical addr sinc i0 digamma lgamma "
    "floor_divide true_divide __and__ __or__ __xor__ _softmax _log_softmax _safe_softmax softmax log_softmax sum "
    "mean prod amax amin aminmax max min argmax argmin any all std var var_mean std_mean logsumexp norm "
    "linalg_vector_norm _weight_norm_interface nansum cumsum cumprod native_batch_norm native_layer_norm "
    "native_group_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "batch_norm_update_stats _batch_norm_with_update _fused_rms_norm _thnn_fused_lstm_cell _thnn_fused_gru_cell "
    "renorm special_entr special_erfcx fake_quantize_per_tensor_affine_cachemask "
    "fake_quantize_per_channel_affine_cachemask quantize_per_tensor dequantize complex real imag view_as_complex "
    "_conj _neg_view count_nonzero dist _fused_moving_avg_obs_fq_helper"
)
"""Element-wise operators and reductions: with these alone a module is an activation or a norm."""
_MOVES = words(
    "cat stack clone copy _to_copy constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d "
    "replication_pad1d replication_pad2d replication_pad3d pad_circular roll flip rot90 repeat index index_put "
    "_index_put_impl _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_view gather scatter index_select "
    "index_copy index_fill index_add scatter_add scatter_reduce masked_scatter masked_select take put "
    "im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle tril triu diag_embed "
    "fill zero set resize resize_as lift_fresh lift repeat_interleave reshape contiguous slice_scatter select_scatter "
    "_reshape_copy view_copy expand_copy slice select embedding_dense new_zeros new_ones new_full new_empty "
    "new_empty_strided empty_like zeros_like ones_like full_like rand_like randn_like randint_like embedding "
    "_embedding_bag _embedding_bag_forward_only split_with_sizes_copy unbind_copy"
)
_NOTHING = words(
    "empty empty_strided empty_permuted zeros ones full eye arange linspace logspace rand randn randint randperm "
    "scalar_tensor normal uniform random exponential tril_indices triu_indices hann_window hamming_window "
    "_local_scalar_dense is_nonzero equal item _fused_sdp_choice cudnn_is_acceptable sym_size sym_numel "
    "sym_stride is_same_size as_strided_ t_ transpose_ squeeze_ unsqueeze_ swapaxes_ "
    "_has_compatible_shallow_copy_type _cudnn_init_dropout_state detach alias _assert_async _functional_assert_async "
    "_assert_scalar _functional_assert_scalar _assert_tensor_metadata"
)
_RESAMPLES = words(
    "max_pool2d_with_indices max_pool3d_with_indices max_pool1d max_pool2d max_pool3d mkldnn_max_pool2d avg_pool1d "
    "avg_pool2d avg_pool3d adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d fractional_max_pool3d max_unpool2d max_unpool3d "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"
)
_OF_NO_LAYER = words(
    "grid_sampler_2d grid_sampler_3d _grid_sampler_2d_cpu_fallback sort topk argsort kthvalue median nanmedian mode "
    "unique_dim _unique2 unique_consecutive searchsorted bucketize histc bincount nonzero nonzero_static multinomial "
    "cummax cummin logcumsumexp cross linalg_cross trace diff msort isin _segment_reduce segment_reduce "
    "_pad_packed_sequence _pack_padded_sequence combinations cartesian_prod"
)
_OTHER_LIBRARIES = words("torchvision::nms torchvision::roi_align torchvision::roi_pool torchvision::ps_roi_align "
                          "torchvision::ps_roi_pool")  # fmt: skip
_SUMS_ALONG = words("cumsum cumprod")
NAMED_IN_PASSING: Dict[str, str] = {
    **{f"aten::{name}{in_place}": OTHER for name in _OF_NO_LAYER for in_place in ("", "_")},
    **dict.fromkeys(_OTHER_LIBRARIES, OTHER),
    **{f"aten::{name}{in_place}": ELEMENTWISE for name in _SUMS_ALONG for in_place in ("", "_")},
}
"""Operators that cost what no layer rule counts, with their kinds: a forward that runs one beside its layers names it,
while a layer that consists of them is itself what is named, or counted."""


def kind_of(func: Any, product: Optional[Product]) -> str:
    """Say what an operator does, by PyTorch's tags and the lists above; UNKNOWN where nobody knows."""
    if product is not None:
        return MULTIPLIES
    name = func._schema.name
    if effects_of(func).is_view:
        return NOTHING
    space, _, base = name.partition("::")
    if name in _OTHER_LIBRARIES:
        return OTHER
    if space not in ("aten", "prims", "quantized_decomposed"):
        return UNKNOWN
    forward = base.partition("_backward")[0]
    for candidate in (base, base.rstrip("_"), base.replace("_foreach_", "").rstrip("_"), forward):
        for names, kind in (
            (_ELEMENTWISE, ELEMENTWISE), (_MOVES, MOVES), (_NOTHING, NOTHING),
            (_RESAMPLES, OTHER), (_OF_NO_LAYER, OTHER),
        ):  # fmt: skip
            if candidate in names:
                return kind
    tags = getattr(func, "tags", ())
    if any(getattr(torch.Tag, tag, None) in tags for tag in ("pointwise", "reduction")):
        return ELEMENTWISE
    return UNKNOWN


# ---- one operator ----

_WRITES_OVER = frozenset(("aten::copy_", "aten::fill_", "aten::zero_", "aten::normal_", "aten::uniform_"))


class OperatorFacts(NamedTuple):
    """What all calls of an operator have in common.

    func: itself, which keeps its identity in use; name: as in its schema, ``operator`` without ATen's namespace; kind:
    as ``kind_of`` names it, kind_beside_layers: what a forward is charged with, or named for; charge: what it moves
    where its schema can't tell; assumption: what is not exact about that, or about its products.
    """

    func: Any
    name: str
    operator: str
    effects: Effects
    is_view: bool
    makes_memory: bool
    writes_over: bool
    kind: str
    kind_beside_layers: str
    product: Optional[Product]
    charge: Optional[Charge]
    has_row: bool
    makes_indices: bool
    assumption: str

    def __reduce__(self) -> Any:
        """Go to another process without functions, which know no way there."""
        return OperatorFacts, tuple(self._replace(func=None, product=None, charge=None))


_KNOWN: Dict[int, OperatorFacts] = {}  # by identity: operators hash in Python
_REGISTERED: Dict[Any, Any] = {}


def facts_of(func: Any) -> OperatorFacts:
    """Return what is known of an operator."""
    known = _KNOWN.get(id(func))
    if known is None:
        known = _KNOWN[id(func)] = _look_up(func)
    return known


def hear_of_new_formulas() -> None:
    """Forget what was looked up if somebody has entered or taken away a formula for FLOPs since."""
    registered = flop_registry()
    if registered != _REGISTERED:
        _KNOWN.clear()
        _REGISTERED.clear()
        _REGISTERED.update(registered)


def _look_up(func: Any) -> OperatorFacts:
    effects, name = effects_of(func), func._schema.name
    product = product_of(func)
    kind = kind_of(func, product)
    charge = SPECIAL_CASES.get(name)
    moved = DATA_DEPENDENT.get(name) or ("" if name.startswith(("aten::", "prim")) else ASSUMED_ONCE)
    return OperatorFacts(
        func=func,
        name=name,
        operator=name.replace("aten::", ""),
        effects=effects,
        is_view=effects.is_view or effects.is_plain_view,
        makes_memory=any(effects.new_results),
        writes_over=name in _WRITES_OVER,
        kind=kind,
        kind_beside_layers=name if name in NAMED_IN_PASSING else kind or name,
        product=product,
        charge=charge,
        has_row=charge is not reserved,
        makes_indices=name in POOLS_WITH_INDICES,
        assumption="; ".join(filter(None, (moved, "" if kind else NO_FORMULA))),
    )
