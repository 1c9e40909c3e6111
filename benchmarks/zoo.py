"""The public networks that the sweep counts: their names, how each is built, and what each takes.

Not to be run; `sweep.py` imports this. Nothing is downloaded: no network gets its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable

import torch
from torch import nn

from utils.thop.run import BlankBuildFailed, blank


@dataclass
class Family:
    """Networks of one origin; `inputs` says what a built one takes, as tensors on a device."""

    names: Callable[[], list[str]]
    build: Callable[[str], nn.Module]
    inputs: Callable[[str, Any, str], tuple[Any, ...]]


def _image(side: int, device: str, channels: int = 3) -> tuple[Any, ...]:
    return (torch.zeros(1, channels, side, side, device=device),)


# ---- timm ----


def _timm_names() -> list[str]:
    import timm

    return list(timm.list_models())


def _timm(name: str) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, pretrained=False)
    return model


def _timm_inputs(name: str, model: Any, device: str) -> tuple[Any, ...]:
    sizes = model.pretrained_cfg.get("input_size", (3, 224, 224))
    return (torch.zeros(1, *sizes, device=device),)


# ---- torchvision ----


def _torchvision_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models())


def _torchvision(name: str) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if name.startswith(("googlenet", "inception_v3", "quantized_googlenet", "quantized_inception_v3")):
        options["init_weights"] = False  # drawing them takes most of a minute
    if "rcnn" in name or name.startswith(("fcos", "retinanet", "ssd", "deeplab", "fcn", "lraspp")):
        options["weights_backbone"] = None
    model: nn.Module = torchvision.models.get_model(name, **options)
    return model


def _torchvision_inputs(name: str, model: Any, device: str) -> tuple[Any, ...]:
    if name in ("raft_large", "raft_small"):
        return _image(128, device) * 2
    if name.startswith(("r3d", "mc3", "r2plus1d", "s3d", "mvit", "swin3d")):
        side = 112 if name.startswith(("r3d", "mc3", "r2plus1d")) else 224
        return (torch.zeros(1, 3, 16, side, side, device=device),)
    if "rcnn" in name or name.startswith(("fcos", "retinanet", "ssd")):
        return ([torch.zeros(3, 320, 320, device=device)],)
    side = {"vit_h_14": 224, "inception_v3": 299, "quantized_inception_v3": 299}.get(name, 224)
    return _image(side, device)


# ---- ultralytics ----


@lru_cache(maxsize=None)
def _ultralytics_cfgs() -> dict[str, Path]:
    import ultralytics

    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def _ultralytics(name: str) -> nn.Module:
    from ultralytics.nn import tasks

    kinds = {
        "-cls": "ClassificationModel", "-seg": "SegmentationModel", "-pose": "PoseModel", "-obb": "OBBModel",
        "rtdetr": "RTDETRDetectionModel", "-world": "WorldModel", "yoloe": "YOLOEModel",
    }  # fmt: skip
    kind = next((kind for part, kind in kinds.items() if part in name), "DetectionModel")
    if "yoloe" in name and "-seg" in name:
        kind = "YOLOESegModel"
    model: nn.Module = getattr(tasks, kind)(str(_ultralytics_cfgs()[name]), verbose=False)
    return model


def _ultralytics_inputs(name: str, model: Any, device: str) -> tuple[Any, ...]:
    return _image(224 if "-cls" in name else 640, device)


# ---- YOLOv5 ----


def _yolov5_names() -> list[str]:
    from releases import ALL_CFGS

    return list(ALL_CFGS)


def _yolov5(name: str) -> nn.Module:
    from releases import yolo

    model: nn.Module = yolo(name)
    return model


FAMILIES = {
    "timm": Family(_timm_names, _timm, _timm_inputs),
    "torchvision": Family(_torchvision_names, _torchvision, _torchvision_inputs),
    "ultralytics": Family(lambda: list(_ultralytics_cfgs()), _ultralytics, _ultralytics_inputs),
    "yolov5": Family(_yolov5_names, _yolov5, lambda name, model, device: _image(640, device)),
}


def build_without_values(family: str, name: str) -> tuple[nn.Module, bool]:
    """Build a network without values if its constructor lets us; say whether it did."""
    try:
        with blank():
            return FAMILIES[family].build(name).eval(), True
    except (BlankBuildFailed, RuntimeError, NotImplementedError, TypeError, ValueError):
        return FAMILIES[family].build(name).eval(), False
