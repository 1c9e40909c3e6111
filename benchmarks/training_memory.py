"""Counted training memory beside what AutoBatch has printed on GPUs: published lines, in training_memory.csv.

    python benchmarks/training_memory.py

AutoBatch runs a copy of the model forward and backward under autocast, beside the model and without an optimizer, and
prints the *reserved* memory. Reserved to counted is fitted by a line; its two numbers stand in
utils/thop/deploy/training.py.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from common import print_table, use_release  # noqa: E402
from releases import yolo  # noqa: E402

from utils.thop import training  # noqa: E402
from utils.thop.deploy.calibration import mean_factor  # noqa: E402
from utils.thop.deploy.training import reserved_bytes  # noqa: E402

TABLE = Path(__file__).with_suffix(".csv")


def counted(model: str, classes: int, side: int, batch: int) -> int:
    """The peak of what AutoBatch runs, in bytes."""
    if model.startswith("yolov5"):
        network = yolo(f"{model}.yaml", nc=classes)
    else:
        from ultralytics.nn.tasks import DetectionModel

        network = DetectionModel(f"{model}.yaml", nc=classes, verbose=False)
    found = training(network, (torch.empty(batch, 3, side, side, device="meta"),), ema=False)
    return found.peak - found.optimizer_state + found.weights


def measure() -> list[tuple[dict[str, str], int, float]]:
    """Each published line with its counted peak, and what was reserved, in bytes."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    sizes = [counted(row["model"], *(int(row[name]) for name in ("nc", "imgsz", "batch"))) for row in rows]
    return [(row, size, float(row["reserved_GB"]) * 1e9) for row, size in zip(rows, sizes)]


def main() -> None:
    """Print the table and the line."""
    import numpy

    use_release()
    found = measure()
    print_table(
        "AutoBatch's reserved memory, published and estimated (GB)",
        [
            {
                "model": f"{row['model']} {row['imgsz']} x{row['batch']}",
                "GPU": row["device"],
                "counted": f"{size / 1e9:.3f}",
                "estimated": f"{reserved_bytes(size) / 1e9:.3f}",
                "published": f"{published / 1e9:.3f}",
                "off": f"x {reserved_bytes(size) / published:.2f}",
            }
            for row, size, published in found
        ],
    )
    slope, start = numpy.polyfit([size for _, size, _ in found], [published for _, _, published in found], 1)
    off = mean_factor([reserved_bytes(size) / published for _, size, published in found])
    print(f"\nreserved = {slope:.3f} x counted + {start / 1e9:.3f} GB; the estimate is off by x {off:.2f} on average")


if __name__ == "__main__":
    main()
