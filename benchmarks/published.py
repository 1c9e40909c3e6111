"""Build the networks of the published tables, by their names there.

Not to be run; `clock.py` imports this. Those whose source no package has are left out: `network` raises KeyError.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from functools import partial
from typing import Any, Callable

import torch
from releases import yolo
from torch import nn
from zoo import FAMILIES

from utils.thop.deploy.measurements import Measurement
from utils.thop.flow import Flow, flow
from utils.thop.run import blank

_TORCHVISION = {"mobilenetv2-12": "mobilenet_v2", "resnet50-v2-7": "resnet50"}
_OURS = ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x")


def _yolov5(name: str) -> nn.Module:
    """A network of YOLOv5 v7.0; the zoo's yolov5s_relu has another activation."""
    if name == "yolov5s_relu":
        model: Any = yolo("yolov5s.yaml")
        for module in model.modules():
            if type(module).__name__ == "Conv" and isinstance(module.act, nn.SiLU):
                module.act = nn.ReLU(inplace=True)
        return model
    folder = "segment/" if name.endswith("-seg") else "hub/" if name.endswith("6") else ""
    return yolo(f"{folder}{name}.yaml")


def _ultralytics(name: str) -> Callable[[], nn.Module]:
    """What builds a network of ultralytics, imported by now: its classes hold tensors, which must not be blank."""
    from ultralytics.nn import tasks

    kinds = {"-seg": "SegmentationModel", "-pose": "PoseModel", "-obb": "OBBModel"}
    kind = next((kind for part, kind in kinds.items() if part in name), "DetectionModel")
    return partial(getattr(tasks, kind), f"{name}.yaml", verbose=False)


def _timm(name: str) -> nn.Module:
    """A network of timm, with the norms in float16, as it was measured."""
    import timm

    timm.layers.set_fast_norm(True)
    return FAMILIES["timm"].build(name)


def builder(measured: Measurement) -> Callable[[], nn.Module]:
    """Return what builds a published network; raises KeyError where nothing here does."""
    name = measured.model
    if measured.precision == "amp":
        return lambda: _timm(name)
    if name in _TORCHVISION:
        return lambda: FAMILIES["torchvision"].build(_TORCHVISION[name])
    if name in {f"{ours}u" for ours in _OURS}:
        return _ultralytics(name[:-1])
    if name.startswith(_OURS):
        return lambda: _yolov5(name)
    if name.startswith(("yolov8", "yolov10", "yolo11")):
        return _ultralytics(name)
    raise KeyError(name)


def network(measured: Measurement) -> Flow:
    """Count a published network at its input; detectors are fused, as their authors time them."""
    build = builder(measured)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with blank():
                model: Any = build()
        except Exception:
            model = build()
        model.eval()
        if measured.precision != "amp" and hasattr(model, "fuse"):
            with contextlib.redirect_stdout(sys.stderr):  # which says so
                model.fuse()
    return flow(model, (torch.zeros(measured.shape, device="meta"),), amp=measured.precision == "amp")
