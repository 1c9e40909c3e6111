"""Published speeds of networks: what other people measured on which device. Sources: published/SOURCES.md."""

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Tuple

from .devices import key_of

FOLDER = Path(__file__).with_name("published")
NETWORKS = FOLDER / "networks.csv"  # what the networks of the tables hold and compute
_ALIKE = 0.01  # how far off the parameters and FLOPs of the same network may be: fused, or without decoding
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

    model: its name in the source; shape: of its input; decode: whether the heads' predictions are decoded; parameters:
    where the source says them, or 0.
    """

    model: str
    shape: Tuple[int, ...]
    device: str
    runtime: str
    precision: str
    seconds: float
    source: str
    decode: bool = True
    parameters: float = 0.0


@lru_cache(maxsize=1)
def published() -> List[Measurement]:
    """Read all of them."""
    tables = [file for file in sorted(FOLDER.glob("*.csv")) if file != NETWORKS]
    return [_measurement(file.stem, row) for file in tables for row in _rows(file)]


def _rows(file: Path) -> Iterable[Dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def _measurement(table: str, row: Dict[str, str]) -> Measurement:
    device = row["device"]
    if table == "timm_eager":
        batch, side = int(row["batch"]), int(row["imgsz"])
        seconds = float(row["ms_per_image"]) * batch / 1e3
        shape: Tuple[int, ...] = (batch, 3, side, side)
        size = float(row["parameters_M"]) * 1e6
        place = key_of(device), "pytorch", "amp"
        return Measurement(row["model"], shape, *place, seconds, SOURCES[table], parameters=size)
    shape = tuple(int(size) for size in row["input"].split(","))
    precision = {"fp16": "float16"}.get(row["precision"], row["precision"])
    if table == "rknn_model_zoo":
        seconds = float(row["ms"]) / 1e3
        return Measurement(row["model"], shape, key_of(device), "rknn", precision, seconds, SOURCES[table], False)
    runtime = "pytorch-cpu" if "CPU" in device and row["runtime"] == "pytorch" else row["runtime"]
    seconds = float(row["ms"]) * shape[0] / 1e3
    return Measurement(row["model"], shape, key_of(device), runtime, precision, seconds, SOURCES[device])


@lru_cache(maxsize=1)
def _networks() -> Dict[Tuple[str, Tuple[int, ...]], Tuple[float, Optional[float]]]:
    """Parameters and FLOPs of an image, by name and size."""
    return {
        (row["model"], (int(row["height"]), int(row["width"]))): (int(row["parameters"]), int(row["flops"]))
        for row in _rows(NETWORKS)
    }


def find_measurement(
    parameters: Optional[float] = None, flops: Optional[float] = None, **wanted: Any
) -> Optional[Measurement]:
    """Return the published speed with these fields, of a network of so many parameters and FLOPs of an image, if given.

    A network of another structure may have the same name; where nobody knows what the published one holds, it is not
    taken for it.
    """
    for measured in published():
        if all(getattr(measured, name) == value for name, value in wanted.items()):
            size, work = _networks().get((measured.model, measured.shape[2:]), (measured.parameters, flops))
            if _alike(parameters, size) and _alike(flops, work):
                return measured
    return None


def _alike(one: Optional[float], other: Optional[float]) -> bool:
    return one is None or other is None or abs(one - other) <= _ALIKE * other
