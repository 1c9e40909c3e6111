"""Autocast as CUDA has it, on this machine: PyTorch's own lists, and what operators read and return."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from utils.thop.count.record import record
from utils.thop.run.autocast import FLOAT32, LOWER, PROMOTE, RETURN_FLOAT32, can_autocast

pytestmark = pytest.mark.skipif(not can_autocast(), reason="torch before 2.4 can't be asked for its lists by device")
HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
ON_BOTH = {
    "_convolution", "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "convolution", "addmm", "matmul", "mm", "linalg_vecdot", "linear", "addbmm", "baddbmm", "bmm",
    "_scaled_dot_product_flash_attention",
}  # fmt: skip


def listed(name: str) -> set[str]:
    """The operators of one of the header's lists, without their overloads."""
    text = HEADER.read_text()
    found = re.search(rf"#define {name}\(_\)((?:.*\\\n)*.*\n)", text)
    assert found, name
    return set(re.findall(r"_\((?:ADD_NS\()?(\w+)", found.group(1)))


@pytest.mark.skipif(not HEADER.is_file(), reason="this torch came without its headers")
@pytest.mark.skipif("dev" in torch.__version__ or torch.__version__ < "2.9", reason="older lists are shorter")
def test_the_lists_are_those_of_torch() -> None:
    assert listed("AT_FORALL_FP32") == FLOAT32
    returned = listed("AT_FORALL_FP32_SET_OPT_DTYPE") | listed("AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE")
    assert returned == RETURN_FLOAT32
    assert listed("AT_FORALL_PROMOTE") == PROMOTE
    assert listed("AT_FORALL_LOWER_PRECISION_FP") == LOWER | ON_BOTH


class Then(nn.Module):
    """A convolution, whose result is in float16, and what is done to that."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 8, 1), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


CASES: dict[str, tuple[Callable[[Tensor], Any], str, str, str]] = {  # function, operator, what it reads and returns
    "interpolate": (lambda y: functional.interpolate(y, scale_factor=2), "upsample_nearest2d", "float32", "float32"),
    "area": (lambda y: functional.interpolate(y, size=4, mode="area"), "_adaptive_avg_pool2d", "float16", "float16"),
    "norm": (lambda y: y.norm(dim=1), "linalg_vector_norm", "float16", "float32"),
    "linalg.norm": (lambda y: torch.linalg.norm(y, dim=1), "linalg_vector_norm", "float16", "float32"),
    "normalize": (lambda y: functional.normalize(y, dim=1), "linalg_vector_norm", "float16", "float32"),
    "softmax": (lambda y: y.softmax(1), "_softmax", "float16", "float32"),
    "log_softmax": (lambda y: functional.log_softmax(y, 1), "_log_softmax", "float16", "float32"),
    "sum": (lambda y: y.sum(1), "sum", "float16", "float32"),
    "mean": (lambda y: y.mean(1), "mean", "float16", "float16"),
    "layer_norm": (lambda y: functional.layer_norm(y, (8,)), "native_layer_norm", "float32", "float32"),
    "batch norm": (lambda y: functional.batch_norm(y, None, None, training=True), "native_batch_norm", "float16",
                   "float16"),
    "logsumexp": (lambda y: y.logsumexp(1), "logsumexp", "float32", "float32"),
    "huber_loss": (lambda y: functional.huber_loss(y, y), "huber_loss", "float32", "float32"),
    "a power": (lambda y: y**2, "pow", "float32", "float32"),
    "grid_sample": (lambda y: functional.grid_sample(y, torch.zeros(2, 4, 4, 2), align_corners=False),
                    "grid_sampler_2d", "float32", "float32"),
    "prelu": (lambda y: functional.prelu(y, torch.zeros(1)), "_prelu_kernel", "float16", "float16"),
    "silu": (functional.silu, "silu", "float16", "float16"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_operators_read_and_return(name: str) -> None:
    function, operator, reads, returns = CASES[name]
    recorded = record(Then(function), (torch.zeros(2, 3, 8, 8),), amp=True)
    assert recorded.amp
    [call] = [call for call in recorded.steps if call.name == f"aten::{operator}"]
    assert [str(call.reads[0].dtype), str(call.writes[0].dtype)] == [f"torch.{reads}", f"torch.{returns}"]
    assert not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda")


def test_a_power_that_python_spells_otherwise() -> None:
    recorded = record(Then(lambda y: 1 / y), (torch.zeros(2, 3, 8, 8),), amp=True)
    assert [call.name for call in recorded.steps][-2:] == ["aten::reciprocal", "aten::mul"]
    assert recorded.steps[-1].writes[0].dtype is torch.float32
