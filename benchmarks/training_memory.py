"""Counted training memory beside what trainings have printed on GPUs: published/training/memory.csv.

    python benchmarks/training_memory.py

GPU_mem, which YOLOv5 and ultralytics print, is what the allocator has reserved, after the first epoch and the last;
``max allocated``, mmyolo's, is the peak itself, with a loss of its own. The quantiles of what was printed to what is
counted stand in utils/thop/deploy/fits.py. Networks that no package here builds are left out.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from common import print_table, use_release  # noqa: E402
from releases import LATEST, release  # noqa: E402

from utils.thop.command.models import ModelError, Setup, Source, build, find  # noqa: E402
from utils.thop.command.train import Counter  # noqa: E402

TABLE = ROOT / "benchmarks" / "published" / "training" / "memory.csv"
KINDS = {"training log GPU_mem": "reserved", "AutoBatch": "reserved", "max allocated": "allocated"}


def source_of(model: str) -> Source | None:
    """What the command calls a model of the table; None where nothing here builds it."""
    if model.startswith("yolov5") and not model.endswith("-cls"):
        models = release(LATEST) / "yolov5" / "models"
        folders = [models, models / "hub", models / "segment"]
        found = [folder / f"{model}.yaml" for folder in folders if (folder / f"{model}.yaml").is_file()]
        return find([str(found[0])])[0] if found else None
    if model.startswith(("yolov8", "yolov10", "yolo11", "yolov3")):
        return find([f"ultralytics:{model}.yaml"])[0]
    return None


def peak_of(row: dict[str, str]) -> int:
    """The counted peak of a row's training; AutoBatch runs forward and backward of a copy beside the model."""
    source = source_of(row["model"])
    if source is None or not row["nc"]:
        return 0
    side, batch = int(row["imgsz"]), int(row["batch"])
    alone = row["kind"] == "AutoBatch"
    optimizer = row["optimizer"] if row["optimizer"] != "-" else "SGD"
    printed = row["kind"] == "training log GPU_mem"
    arguments = argparse.Namespace(
        amp=row["amp"] == "1", optimizer=optimizer, accumulate=None if printed else 1, ema=printed, validate=False,
        objects=20, freeze=[], gpus=1, sync_bn=False,
    )  # fmt: skip
    setup = Setup((side, side), batch)
    try:
        built = build(source, setup, without_values=True)
    except ModelError:
        return 0
    counter = Counter(built, setup, arguments)
    counter.no_loss = "" if printed else "mmyolo's is its own, and AutoBatch takes the mean of the outputs"
    found = counter.at((side, side))(batch)
    return found.peak - (found.optimizer_state - found.weights if alone else 0)


def measure() -> list[tuple[dict[str, str], int]]:
    """Each published line that says how much, with its counted peak, those that can be counted."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["kind"] in KINDS and row["reported_first_epoch_GB"]]
    return [(row, size) for row, size in ((row, peak_of(row)) for row in rows) if size]


def main() -> None:
    """Print the lines, and the quantiles of what was printed to what is counted."""
    torch.set_num_threads(1)
    use_release()
    ratios: dict[str, list[float]] = {}
    table = []
    for row, size in measure():
        first, last = (1e9 * float(row[f"reported_{name}_GB"]) / size for name in ("first_epoch", "last"))
        what = KINDS[row["kind"]]
        names = ("max allocated",) if what == "allocated" else ("AutoBatch",) if row["kind"] == "AutoBatch" else ()
        for name, ratio in [(name, first) for name in names] or [("first epoch", first), ("last epoch", last)]:
            ratios.setdefault(name, []).append(ratio)
        table.append({
            "model": f"{row['model']} {row['imgsz']} x{row['batch']}", "version": row["repo_version"],
            "counted GB": f"{size / 1e9:.2f}", "first": f"x {first:.2f}", "last": f"x {last:.2f}",
        })  # fmt: skip
    print_table("Printed by trainings on GPUs, to the counted peak", table)
    for name, found in ratios.items():
        low, middle, high = torch.tensor(found).quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
        print(f"{name}: {len(found)} lines, median x {middle:.2f}, nine of ten between x {low:.2f} and x {high:.2f}")


if __name__ == "__main__":
    main()
