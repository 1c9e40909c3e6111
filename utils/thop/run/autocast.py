"""A run under autocast to float16 as CUDA has it, on any machine.

PyTorch's own autocast casts what convolutions and matrix products are called with, on the CPU as on CUDA; there it
also keeps norms, sums, exponentials and losses in float32 (PyTorch's documentation, "CUDA Ops that can autocast to
float32"), which is done here, and attention is one operator. The run's tensors stay where they are.
"""

from contextlib import contextmanager
from typing import Any, Dict, Iterator

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .nested import map_tensors
from .schema import words

_FLOAT32 = words(
    "__pow__ __rpow__ __rdiv__ __rtruediv__ acos asin binary_cross_entropy_with_logits cdist cosh "
    "cosine_embedding_loss cosine_similarity cross_entropy cumprod cumsum dist erfinv exp expm1 group_norm "
    "hinge_embedding_loss kl_div l1_loss layer_norm log log10 log1p log2 log_softmax margin_ranking_loss mse_loss "
    "multi_margin_loss multilabel_margin_loss nll_loss norm normalize pdist poisson_nll_loss pow prod reciprocal "
    "renorm rsqrt sinh smooth_l1_loss soft_margin_loss softmax softmin softplus sum tan triplet_margin_loss"
)
_DEVICES = ("cpu", "cuda")  # a model may ask for either
_ATTENTION = "scaled_dot_product_attention"
_NOT_ON_CUDA = words("adaptive_avg_pool3d avg_pool3d interpolate upsample grid_sample")
"""What autocast on the CPU casts, and on CUDA does not."""
_OTHERWISE = _FLOAT32 | _NOT_ON_CUDA | {_ATTENTION}


class _CudaLists(TorchFunctionMode):
    """Casts where autocast on CUDA would and on the CPU does not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _OTHERWISE and torch.is_autocast_enabled("cpu"):
            dtype = {_ATTENTION: torch.float16}.get(name, torch.float32 if name in _FLOAT32 else None)
            return _cast_and_call(func, dtype, args, kwargs)
        return func(*args, **kwargs)


def _cast_and_call(func: Any, dtype: Any, args: Any, kwargs: Dict[str, Any]) -> Any:
    if dtype is not None:
        args, kwargs = _cast(args, dtype), _cast(kwargs, dtype)
    _switch(False)
    try:
        return func(*args, **kwargs)
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
        torch.clear_autocast_cache()  # it holds what the copy's weights were cast to


def can_autocast() -> bool:
    """Say whether this PyTorch has what it takes, the names of devices: since 2.4."""
    return hasattr(torch, "get_autocast_dtype")
