"""What training on several GPUs takes on each of them, beside a training on one: DistributedDataParallel's buckets.

YOLOv5 wraps the model without ``gradient_as_bucket_view``, so gradients lie in memory once more, in flat buckets that
live as long as the wrapped model. What NCCL takes for its channels is outside of PyTorch's memory, and not known.
"""

from typing import Any, Dict, List, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..count.storages import in_blocks
from .runtimes import DeviceError

_FIRST, _OTHERS = 2**20, 25 * 2**20  # bytes that close a bucket


def need_whole(name: str, value: Any) -> None:
    """Raise DeviceError unless a value is a whole number from 1 up."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DeviceError(f"{name} must be a whole number from 1 up, not {value!r}")


def bucket_bytes(model: nn.Module, block: int) -> int:
    """Bytes of the buckets of all trained parameters, the last ones first, each of one type, in whole blocks."""
    buckets: Dict[torch.dtype, List[int]] = {}
    for parameter in reversed([parameter for parameter in model.parameters() if parameter.requires_grad]):
        sizes = buckets.setdefault(parameter.dtype, [0])
        if sizes[-1] >= (_OTHERS if len(sizes) > 1 else _FIRST):
            sizes.append(0)
        sizes[-1] += parameter.numel() * parameter.element_size()
    return sum(in_blocks(size, block) for sizes in buckets.values() for size in sizes)


def statistics_bytes(model: nn.Module, gpus: int, block: int) -> int:
    """At most so many bytes SyncBatchNorm takes beside a batch norm.

    Each layer keeps how many values each GPU had; the widest gathers means, deviations and that number, twice.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return len(layers) * in_blocks(4 * gpus, block) + _gathered([layer.num_features for layer in layers], gpus, block)


def _gathered(channels: Sequence[int], gpus: int, block: int) -> int:
    return 2 * in_blocks(4 * gpus * (2 * max(channels) + 1), block) if channels else 0
