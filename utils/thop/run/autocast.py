"""A run under autocast to float16 as CUDA has it, on any machine.

PyTorch's own autocast casts what convolutions and matrix products are called with, on the CPU as on CUDA. What it does
there and not here is done here, by PyTorch's lists for CUDA (``ATen/autocast_mode.h``, which wheels hold): most of what
sums or takes exponentials is cast to float32, norms and softmax read half precision and return float32, and a few
operators take the widest type that they are given. The run's tensors stay where they are.
"""

from contextlib import contextmanager
from types import FunctionType
from typing import Any, Callable, Dict, Iterator

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .nested import map_tensors, tensors_in
from .schema import words
from .shape_tensor import lacks_values

LOWER = words(
    "prelu addmv addr mv einsum chain_matmul linalg_multi_dot _thnn_fused_lstm_cell _thnn_fused_gru_cell lstm_cell "
    "gru_cell rnn_tanh_cell rnn_relu_cell scaled_dot_product_attention"
)
"""Cast to float16 on CUDA, and not by autocast on the CPU; all else that is, is so on both."""
FLOAT32 = words(
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow softplus layer_norm "
    "native_layer_norm rms_norm group_norm frobenius_norm nuclear_norm cosine_similarity poisson_nll_loss "
    "cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss "
    "margin_ranking_loss multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss "
    "binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp upsample_nearest1d _upsample_nearest_exact1d "
    "upsample_nearest2d _upsample_nearest_exact2d upsample_nearest3d _upsample_nearest_exact3d upsample_linear1d "
    "upsample_bilinear2d _upsample_bilinear2d_aa upsample_trilinear3d upsample_bicubic2d _upsample_bicubic2d_aa"
)
"""Cast to float32."""
RETURN_FLOAT32 = words("prod softmax log_softmax cumprod cumsum linalg_vector_norm linalg_matrix_norm sum norm")
"""Read what they are given, and return float32."""
PROMOTE = words("addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add")
"""Cast to the widest type that they are given."""
_COMES_TO = {
    "__pow__": "pow", "__rpow__": "pow", "__rdiv__": "reciprocal", "__rtruediv__": "reciprocal",
    "linalg_norm": "linalg_vector_norm",
}  # fmt: skip
"""What comes to an operator of another name: a number by a tensor is a product with its reciprocal."""
_AS_IT_IS = words("adaptive_avg_pool3d avg_pool3d")
"""Cast by autocast on the CPU, and not on CUDA."""
_DEVICES = ("cpu", "cuda")  # a model may ask for either
_HALF = (torch.float16, torch.bfloat16)


def _opened(function: Any) -> Any:
    """A function of PyTorch that is written in Python, rebuilt so that what it calls is heard, and itself is not."""
    names = [name for name in function.__globals__ if name.startswith("has_torch_function")]
    namespace = {**function.__globals__, **dict.fromkeys(names, lambda *tensors: False)}
    made = FunctionType(function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


_OPENED: Dict[Any, Callable[..., Any]] = {
    function: _opened(function)
    for function in (
        Tensor.norm, torch.functional.norm, functional.normalize, functional.interpolate, functional.grid_sample,
        functional.cross_entropy, functional.gaussian_nll_loss, functional.softmax, functional.log_softmax,
        functional.softmin, functional.gumbel_softmax,
    )
    if isinstance(function, FunctionType)
}  # fmt: skip


class _CudaLists(TorchFunctionMode):
    """Casts where autocast on CUDA would and on the CPU does not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        opened = _OPENED.get(func)
        if opened is not None:
            with self:
                return opened(*args, **kwargs)
        name = getattr(func, "__name__", "")
        name = _COMES_TO.get(name, name)
        if name in FLOAT32:
            args, kwargs = _cast(args, torch.float32), _cast(kwargs, torch.float32)
        elif name in RETURN_FLOAT32:
            return _return_float32(name, func, args, kwargs)
        elif name in LOWER:
            args, kwargs = _cast(args, torch.float16), _cast(kwargs, torch.float16)
        elif name in PROMOTE:
            dtype = _widest((args, kwargs))
            args, kwargs = _cast(args, dtype), _cast(kwargs, dtype)
        elif name not in _AS_IT_IS:
            return func(*args, **kwargs)
        with _off():
            return func(*args, **kwargs)


def _return_float32(name: str, func: Any, args: Any, kwargs: Dict[str, Any]) -> Any:
    """Call what computes in float32 on what it reads in half precision."""
    tensors = tensors_in(args[:1] or kwargs.values())
    asked = kwargs.get("dtype") is not None or any(isinstance(arg, torch.dtype) for arg in args)
    with _off():
        if not tensors or tensors[0].dtype not in _HALF or asked:
            return func(*args, **kwargs)
        axis = args[1] if len(args) > 1 else kwargs.get("dim")
        if name in ("softmax", "log_softmax") and isinstance(axis, int) and lacks_values(tensors[0]):
            return getattr(torch, f"_{name}")(tensors[0], axis, True)  # CUDA's kernel casts on the way
        if name == "norm":  # of numbers beside the tensor, whose overloads take a type last
            return torch.linalg.vector_norm(tensors[0], *args[1:], **kwargs, dtype=torch.float32)
        return func(*args, **{**kwargs, "dtype": torch.float32})


def _widest(values: Any) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in tensors_in(values) if tensor.is_floating_point()}
    return torch.float16 if dtypes <= {torch.float16} else torch.float32


@contextmanager
def _off() -> Iterator[None]:
    _switch(False)
    try:
        yield
    finally:
        _switch(True)


def _switch(on: bool) -> None:
    for device in _DEVICES:
        torch.set_autocast_enabled(device, on)


def _cast(values: Any, dtype: torch.dtype) -> Any:
    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype is not torch.float64 else tensor

    return map_tensors(values, cast)


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Autocast to float16 by CUDA's lists; whoever runs this puts the thread's state back afterwards."""
    for device in _DEVICES:
        torch.set_autocast_dtype(device, torch.float16)
    _switch(True)
    torch.set_autocast_cache_enabled(True)
    torch.autocast_increment_nesting()
    try:
        with _CudaLists():
            yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()  # it holds what the copy's weights were cast to
        _switch(False)


def can_autocast() -> bool:
    """Say whether this PyTorch has what it takes, the names of devices: since 2.4."""
    return hasattr(torch, "get_autocast_dtype")
