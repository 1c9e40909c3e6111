"""The four buffers in which hooks sum up on each module: ``total_ops``, ``total_params``, ``total_kernel_macs`` (weight
elements read) and ``total_output_macs`` (output elements written), float64 of one element each.
"""

from typing import NamedTuple

import torch
from torch import nn

BUFFERS = ("total_ops", "total_params", "total_kernel_macs", "total_output_macs")


class Cost(NamedTuple):
    """What one call of a layer costs.

    ops: multiply-accumulates; kernel: weight elements read; output: output elements written.
    """

    ops: float = 0
    kernel: float = 0
    output: float = 0


def add_buffers(module: nn.Module) -> None:
    """Give ``module`` its buffers, at zero; they stay out of its state_dict."""
    for name in BUFFERS:
        module._buffers[name] = torch.zeros(1, dtype=torch.float64)
        module._non_persistent_buffers_set.add(name)


def remove_buffers(module: nn.Module) -> None:
    """Take the buffers of ``module`` away again."""
    for name in BUFFERS:
        module._buffers.pop(name, None)
        module._non_persistent_buffers_set.discard(name)


def add_to_buffers(module: nn.Module, cost: Cost) -> None:
    """Add ``cost`` to the buffers of ``module``."""
    module.total_ops += cost.ops
    module.total_kernel_macs += cost.kernel
    module.total_output_macs += cost.output


def read_buffers(module: nn.Module) -> Cost:
    """Return what the buffers of ``module`` hold."""
    return Cost(
        module.total_ops.item(),
        module.total_kernel_macs.item(),
        module.total_output_macs.item(),
    )


__all__ = ["BUFFERS", "Cost", "add_buffers", "add_to_buffers", "read_buffers", "remove_buffers"]
