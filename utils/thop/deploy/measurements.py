"""Published speeds of networks: what other people measured on which device. Sources: published/SOURCES.md."""

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Tuple

from .devices import key_of

FOLDER = Path(__file__).with_name("published")
SOURCES = {
    "rknn_model_zoo": "github.com/airockchip/rknn_model_zoo, README, commit bad6c73",
    "timm_eager": "github.com/huggingface/pytorch-image-models, results/, PyTorch 2.4.0, commit aa4b585",
    "V100": "github.com/ultralytics/yolov5, README, v7.0",
    "AWS p3.2xlarge CPU": "github.com/ultralytics/yolov5, README, v7.0",
    "T4": "docs.ultralytics.com, model comparison pages, TensorRT 10",
    "Jetson Orin Nano Super": "docs.ultralytics.com/guides/nvidia-jetson, 8.3.51",
    "Jetson Orin Nano Super CPU": "docs.ultralytics.com/guides/nvidia-jetson, 8.3.51",
}


@dataclass(frozen=True)
class Measurement:
    """One published speed: seconds of a pass over a batch.

    model: its name in the source; shape: of its input; decode: whether the heads' predictions are decoded.
    """

    model: str
    shape: Tuple[int, ...]
    device: str
    runtime: str
    precision: str
    seconds: float
    source: str
    decode: bool = True


@lru_cache(maxsize=1)
def published() -> List[Measurement]:
    """Read all of them."""
    return [_measurement(file.stem, row) for file in sorted(FOLDER.glob("*.csv")) for row in _rows(file)]


def _rows(file: Path) -> Iterable[Dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def _measurement(table: str, row: Dict[str, str]) -> Measurement:
    device = row["device"]
    if table == "timm_eager":
        batch, side = int(row["batch"]), int(row["imgsz"])
        seconds = float(row["ms_per_image"]) * batch / 1e3
        shape: Tuple[int, ...] = (batch, 3, side, side)
        return Measurement(row["model"], shape, key_of(device), "pytorch", "amp", seconds, SOURCES[table])
    shape = tuple(int(size) for size in row["input"].split(","))
    precision = {"fp16": "float16"}.get(row["precision"], row["precision"])
    if table == "rknn_model_zoo":
        seconds = float(row["ms"]) / 1e3
        return Measurement(row["model"], shape, key_of(device), "rknn", precision, seconds, SOURCES[table], False)
    runtime = "pytorch-cpu" if "CPU" in device and row["runtime"] == "pytorch" else row["runtime"]
    seconds = float(row["ms"]) * shape[0] / 1e3
    return Measurement(row["model"], shape, key_of(device), runtime, precision, seconds, SOURCES[device])


def find_measurement(**wanted: Any) -> Optional[Measurement]:
    """Return the published speed with these fields, if there is one."""
    return next((m for m in published() if all(getattr(m, name) == value for name, value in wanted.items())), None)
