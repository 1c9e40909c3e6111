"""Every model of the 7.0.14 release, counted three ways: by us, by hand-wrapped layers, by the reference package.

Large ones have fewer channels here, or most of the time goes into making weights and multiplying by them.
"""

import sys
from typing import Any

import pytest
import thop as reference
import torch
from oracle import count_by_wrapping
from releases import ALL_CFGS, ROOT

from benchmarks import model_table, pictures
from utils.thop import profile

FULL_SIZE = ("yolov5n.yaml", "yolov5s.yaml", "yolov5m.yaml", "segment/yolov5s-seg.yaml", "hub/yolov5n6.yaml",
             "hub/yolov5s6.yaml")  # fmt: skip


@pytest.mark.parametrize("cfg", ALL_CFGS)
def test_three_counts_agree(yolo: Any, cfg: str) -> None:
    model, side = (yolo(cfg), 640) if cfg in FULL_SIZE else (yolo(cfg, width=0.25), 256)
    image = torch.zeros(1, 3, side, side)
    counted = profile(model, (image,), verbose=False)
    seen = count_by_wrapping(model, image)
    assert (counted.total_kernel_macs, counted.total_output_macs) == (seen.kernel, seen.output)
    products = sum(layer.ops for layer in counted.layers if layer.kind.__name__ in PRODUCTS)
    assert products == seen.products
    assert counted.total_ops == reference.profile(model, (image,), verbose=False)[0]
    assert counted.total_params == sum(p.numel() for p in model.parameters())


PRODUCTS = ("Conv2d", "Linear", "NonDynamicallyQuantizableLinear", "ConvTranspose2d")


@pytest.mark.parametrize("script", [model_table, pictures], ids=["model_table", "pictures"])
def test_tables_are_current(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script.__file__, "--check", str(ROOT / "docs" / "figures.md")])
    assert script.main() == 0


def test_a_fused_model(yolo: Any) -> None:
    model = yolo("yolov5s.yaml")
    whole = profile(model, (torch.zeros(1, 3, 640, 640),), verbose=False)
    model.fuse()
    fused = profile(model, (torch.zeros(1, 3, 640, 640),), verbose=False)
    assert whole.total_output_macs - fused.total_output_macs == 23_654_400  # its BatchNorm2d
    assert whole.total_kernel_macs == fused.total_kernel_macs
