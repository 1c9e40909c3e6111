"""Parallel branches are merged before an export: by hand, and as their authors' own re-parametrization does it."""

from __future__ import annotations

from typing import Any, Callable

import pytest
import torch
from torch import Tensor, nn

from utils.thop import deployed, predict
from utils.thop.deploy.launches import Deployed

X = torch.zeros(1, 8, 16, 16)


class Block(nn.Module):
    """A RepVGG block, with its branches added in the order that it is told."""

    def __init__(self, order: str = "31i", bn: bool = True, groups: int = 1) -> None:
        super().__init__()
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d if bn else lambda _: nn.Identity()
        self.three = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=not bn), norm(8))
        self.one = nn.Sequential(nn.Conv2d(8, 8, 1, groups=groups, bias=not bn), norm(8))
        self.identity, self.order = norm(8), order

    def forward(self, x: Tensor) -> Tensor:
        parts = {"3": self.three, "1": self.one, "i": self.identity, "x": nn.Identity(), "0": lambda _: 0}
        total: Any = parts[self.order[0]](x)
        for name in self.order[1:]:
            total = total + parts[name](x)
        return torch.relu(total)


def sizes(network: Deployed) -> tuple[int, int, int, int]:
    return len(network.launches), network.flops, network.weight_elements, network.read_elements


ONE = (1, 2 * 8 * 256 * 72, 8 * 72 + 8, 8 * 256)


@pytest.mark.parametrize("order", ["31i", "13i", "i31", "31", "3i", "31x", "031i", "3103i"])
def test_branches_are_one_convolution(order: str) -> None:
    network = deployed(Block(order).eval(), (X,), "rknn")
    if order.count("3") == 1:
        assert sizes(network) == ONE
    else:
        assert len(network.launches) == 1
    assert network.merged and {step.name for step in network.merged} >= {"aten::add"}
    assert not deployed(Block(order).eval(), (X,), "pytorch").merged


def test_depthwise_branches_and_convolutions_with_a_bias() -> None:
    assert len(deployed(Block(groups=8).eval(), (X,), "ncnn").launches) == 1
    assert len(deployed(Block("31", bn=False).eval(), (X,), "tensorrt").launches) == 1


class Residual(nn.Module):
    """What is no pair of branches: a residual, other inputs, other groups, a curve between, a branch with readers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.wide = nn.Conv2d(8, 8, 1, groups=8)

    def forward(self, x: Tensor) -> Any:
        if self.kind == "residual":
            return self.a(x) + x
        if self.kind == "input":
            return self.a(x) + self.b(torch.relu(x))
        if self.kind == "curve":
            return self.a(x) + torch.sigmoid(self.b(x))
        if self.kind == "groups":
            return self.a(x) + self.wide(x)
        if self.kind == "product":
            return self.a(x) * self.b(x)
        y = self.a(x)
        return y + self.b(x), nn.functional.max_pool2d(y, 2)


@pytest.mark.parametrize("kind", ["residual", "input", "curve", "groups", "product", "read"])
def test_what_is_no_branch_stays(kind: str) -> None:
    network = deployed(Residual(kind).eval(), (X,), "rknn")
    assert network.merged == []
    ran = {id(step) for launch in network.launches for step in launch.steps}
    assert ran >= {id(step) for step in network.flow.steps if step.flops}


@pytest.mark.parametrize("name", ["repvgg_a1", "mobileone_s0", "mobileone_s1", "repghostnet_050"])
def test_timm_merges_the_same(name: str) -> None:
    timm = pytest.importorskip("timm")
    from timm.utils import reparameterize_model

    model, x = timm.create_model(name, pretrained=False).eval(), (torch.zeros(1, 3, 64, 64),)
    found, right = deployed(model, x, "rknn"), deployed(reparameterize_model(model), x, "rknn")
    assert found.merged and not right.merged
    assert sizes(found) == sizes(right)
    assert "parallel branches are merged" in predict(found, "rk3588").basis


@pytest.mark.parametrize("cfg", ["yolov9t.yaml", "yolov10n.yaml", "yolov6n.yaml"])
def test_ultralytics_merges_the_same(cfg: str) -> None:
    tasks: Any = pytest.importorskip("ultralytics.nn.tasks")
    model, x = tasks.DetectionModel(cfg, verbose=False).eval(), (torch.zeros(1, 3, 64, 64),)
    found = deployed(model, x, "tensorrt")
    assert sizes(found) == sizes(deployed(model.fuse(), x, "tensorrt"))
