"""A sample of the public networks that benchmarks/sweep.py counts, each in all the ways that it does."""

from typing import Any

import pytest

pytest.importorskip("timm", reason="benchmarks/sweep.py counts timm's networks")
pytest.importorskip("torch.utils.flop_counter", reason="torch before 2.1 has no counter to compare with")

from benchmarks.judge import Limits, judge

EXACT = (
    "timm:convnext_atto", "timm:efficientformer_l1", "timm:efficientvit_b0",
    "timm:fastvit_t8", "timm:ghostnet_050", "timm:hrnet_w18_small", "timm:levit_128s", "timm:mixer_s32_224",
    "timm:mobileone_s0", "timm:mobilevit_xxs", "timm:regnetx_002", "timm:repvgg_a0", "timm:resnest14d",
    "timm:test_byobnet", "timm:tiny_vit_5m_224", "timm:vit_tiny_patch16_224", "torchvision:shufflenet_v2_x0_5",
    "ultralytics:11/yolo11.yaml", "ultralytics:v8/yolov8-cls.yaml", "ultralytics:v9/yolov9t.yaml",
    "yolov5:yolov5n.yaml", "yolov5:hub/yolov5s-transformer.yaml",
)  # fmt: skip
NAMED = ("timm:edgenext_xx_small", "torchvision:raft_small", "torchvision:ssdlite320_mobilenet_v3_large")


@pytest.mark.parametrize("network", EXACT + NAMED)
def test_all_counts_of_a_network_agree(network: str, yolo: Any) -> None:
    family, _, name = network.partition(":")
    row = judge(family, name, Limits())
    assert row.verdict == ("exact" if network in EXACT else "named"), f"{row.verdict}: {row.why}"
    assert row.run == "real" or "real" in row.compared
    assert "operators" in row.compared and "layers" in row.compared and row.parameters > 0 and row.flops > 0
