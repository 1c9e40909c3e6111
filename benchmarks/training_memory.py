"""Counted training memory beside what trainings have printed on GPUs: published/training/memory.csv.

    python benchmarks/training_memory.py

GPU_mem, which YOLOv5 and ultralytics print, is what the allocator has reserved, after the first epoch and the last;
``max allocated``, mmyolo's, is the peak itself, with a loss of its own, which holds each object's mask at the image's
full size. The constants in utils/thop/deploy/fits.py are what this prints. Networks that nothing here builds are left
out.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy  # noqa: E402
import torch  # noqa: E402
from common import print_table, use_release  # noqa: E402
from releases import LATEST, release  # noqa: E402
from scipy.optimize import minimize  # noqa: E402

from utils.thop.command.models import Setup, task_of, with_images  # noqa: E402
from utils.thop.command.train import Counter  # noqa: E402
from utils.thop.deploy.fits import Reserved  # noqa: E402
from utils.thop.run.alone import alone  # noqa: E402

TABLE = ROOT / "benchmarks" / "published" / "training" / "memory.csv"
KINDS = {"training log GPU_mem": "reserved", "AutoBatch": "reserved", "max allocated": "allocated"}
OBJECTS = 20


def model_of(name: str, classes: int) -> Any:
    """Build a model of the table; None where nothing here does."""
    if name.startswith(("yolov7", "gelan")):
        return None
    if not name.startswith("yolov5"):
        tasks: Any = importlib.import_module("ultralytics.nn.tasks")
        return getattr(tasks, task_of(name))(f"{name}.yaml", nc=classes, verbose=False)
    yolo: Any = importlib.import_module("yolov5.models.yolo")
    kind = yolo.SegmentationModel if name.endswith("-seg") else yolo.DetectionModel
    cfg = next((release(LATEST) / "yolov5" / "models").rglob(name.replace("-cls", "") + ".yaml"))
    model = kind(str(cfg), nc=classes)
    return yolo.ClassificationModel(model=model, nc=classes, cutoff=10) if name.endswith("-cls") else model


def peak_of(row: dict[str, str]) -> int:
    """The counted peak of a row's training; AutoBatch runs forward and backward of a copy beside the model."""
    side, batch = int(row["imgsz"]), int(row["batch"])
    printed, copied = row["kind"] == "training log GPU_mem", row["kind"] == "AutoBatch"
    with_masks = KINDS[row["kind"]] == "allocated" and row["model"].endswith("-seg")
    arguments = argparse.Namespace(
        amp=row["amp"] == "1", optimizer="SGD" if copied else row["optimizer"], accumulate=None if printed else 1,
        ema=printed, validate=False, objects=OBJECTS, freeze=[], gpus=1, sync_bn=False,
    )  # fmt: skip
    setup = Setup((side, side), batch)
    with alone():
        model = model_of(row["model"], int(row["nc"]))
        if model is None:
            return 0
        counter = Counter(with_images(model, setup), setup, arguments)
        others = "mmyolo's is its own, and AutoBatch takes the mean of the outputs"
        counter.no_loss = "" if printed or with_masks else others
        found = counter.at((side, side))(batch)
    masks = with_masks * batch * OBJECTS * side**2 * 4
    return found.peak + masks - (found.optimizer_state - found.weights if copied else 0)


def measure() -> list[tuple[dict[str, str], int]]:
    """Each published line that says how much, with its counted peak, those that can be counted."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["kind"] in KINDS and row["reported_first_epoch_GB"]]
    return [(row, size) for row, size in ((row, peak_of(row)) for row in rows) if size]


def repository(row: dict[str, str]) -> str:
    """Where a line was published, in so far as lines of one place may have the same flaws."""
    place = row["source"].partition("@")[0]
    return "/".join(place.split(" ")[0].split("/")[:3]) if "/" in place else place


def fitted(peaks: Any, printed: Any) -> Any:
    """The factor and the power by which what is reserved grows with the peak, half of the lines above it."""

    def loss(point: Any) -> float:
        return float(numpy.abs(expected(point, peaks) - numpy.log(printed)).sum() + 0.02 * (point**2).sum())

    options = {"maxiter": 4000, "xatol": 1e-4, "fatol": 1e-5}
    return minimize(loss, numpy.zeros(2), method="Nelder-Mead", options=options).x


def expected(point: Any, peaks: Any) -> Any:
    """The logarithms of what is expected to be reserved for peaks, in GB."""
    return numpy.maximum(point[0] + numpy.exp(point[1]) * numpy.log(peaks), numpy.log(peaks))


def left_out(peaks: Any, printed: Any, places: Any) -> Any:
    """How far each line is off, in logarithms, where no line of its repository has a part in the fit."""
    off = numpy.zeros(len(peaks))
    for place in sorted(set(places)):
        its = places == place
        off[its] = numpy.log(printed[its]) - expected(fitted(peaks[~its], printed[~its]), peaks[its])
    return off


def reach(off: Any) -> Any:
    """Between which parts of what is expected nine of ten lines lie."""
    return numpy.quantile(off, [0.05, 0.95])


def held(peaks: Any, printed: Any, places: Any) -> float:
    """The share of lines inside of the range that the other repositories tell, fit and reach."""
    inside = numpy.zeros(len(peaks), dtype=bool)
    for place in sorted(set(places)):
        its = places == place
        low, high = reach(left_out(peaks[~its], printed[~its], places[~its]))
        off = numpy.log(printed[its]) - expected(fitted(peaks[~its], printed[~its]), peaks[its])
        inside[its] = (low <= off) & (off <= high)
    return float(inside.mean())


def judge(name: str, peaks: Any, printed: Any, places: Any) -> str:
    """The constants for the memory reserved after an epoch, and how well such constants do on other repositories."""
    off, (factor, power) = left_out(peaks, printed, places), numpy.exp(fitted(peaks, printed))
    found = Reserved(*(round(float(value), 3) for value in (factor, power, *numpy.exp(reach(off)))))
    far = f"off by x {numpy.exp(numpy.abs(off).mean()):.2f} on average"
    return f"{name}: {found}; repositories left out, {far}, {held(peaks, printed, places):.0%} inside of its range"


def main() -> None:
    """Print the lines, and the quantiles of what was printed to what is counted."""
    torch.set_num_threads(1)
    use_release()
    ratios: dict[str, list[float]] = {}
    table = []
    measured = measure()
    for row, size in measured:
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
    logs = [(row, size / 1e9) for row, size in measured if row["kind"] == "training log GPU_mem"]
    places = numpy.array([repository(row) for row, _ in logs])
    peaks = numpy.array([size for _, size in logs])
    print(f"\nreserved, {len(logs)} lines of {len(set(places))} repositories")
    for name in ("first_epoch", "last"):
        printed = numpy.array([float(row[f"reported_{name}_GB"]) for row, _ in logs])
        print(judge(name, peaks, printed, places))
    for name, found in ratios.items():
        low, middle, high = torch.tensor(found).quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
        print(f"{name}: {len(found)} lines, median x {middle:.2f}, nine of ten between x {low:.2f} and x {high:.2f}")


if __name__ == "__main__":
    main()
