"""Hold the time bound of each YOLOv5 against the clock, on this machine.

    python benchmarks/bound.py                  yolov5 n, s, m, l, x at 640 x 640, unfused
    python benchmarks/bound.py --rounds 25      more rounds
    python benchmarks/bound.py --fuse           with BatchNorm folded into the convolutions

In each round the machine is measured and every network run once, forward, in evaluation mode, so that a busy machine
slows all alike. A bound is made with the best peak and bandwidth of all rounds: the bound must hold for the fastest
run, and so does not depend on what else the machine was doing while it was measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from releases import SIZES

from benchmarks.common import interleave, print_table, real_model, use_release
from utils.thop import traffic
from utils.thop.deploy.bound import TimeBound, time_bound
from utils.thop.deploy.devices import Device, measure_this

SECONDS_EACH = 20  # all rounds of one network


@dataclass
class Comparison:
    """One network: the least time that this machine could need, and the seconds of each round that it did need."""

    name: str
    bound: TimeBound
    seconds: list[float]

    @property
    def ratio(self) -> float:
        """The bound to the fastest round; above 1 it is none."""
        return self.bound.seconds / min(self.seconds)

    def row(self) -> dict[str, str]:
        """Return the row of the table."""
        memory = self.bound.memory_seconds / self.bound.seconds
        return {
            "model": self.name,
            "bound": f"{self.bound.seconds * 1000:.1f} ms",
            "measured, fastest": f"{min(self.seconds) * 1000:.1f} ms",
            "median": f"{statistics.median(self.seconds) * 1000:.1f} ms",
            "bound / measured": f"{self.ratio:.2f}",
            "rounds": str(len(self.seconds)),
            "": f"{'ok' if self.ratio < 1 else 'NO BOUND'}, {memory:.0%} of it memory's",
        }


def compare_with_clock(rounds: int, fuse: bool = False) -> list[Comparison]:
    """Measure this machine and run the networks, in turns."""
    where = "cuda" if torch.cuda.is_available() else "cpu"  # what is measured, too
    image = torch.rand(1, 3, 640, 640, device=where)
    models = {f"yolov5{size}": real_model(f"yolov5{size}.yaml").to(where) for size in SIZES}
    if fuse:
        models = {name: model.fuse() for name, model in models.items()}
    devices: list[Device] = []
    calls = {name: partial(forward, model, image) for name, model in models.items()}
    timings = interleave({"": lambda: devices.append(measure_this([torch.float32])), **calls}, rounds, SECONDS_EACH)
    device = best_of(devices)
    return [
        Comparison(name, time_bound(traffic(model, (image,)), device), timings[name].seconds)
        for name, model in models.items()
    ]


def forward(model: Any, image: torch.Tensor) -> None:
    """Run a network for real, to the end."""
    with torch.no_grad():
        model(image)
    if image.is_cuda:
        torch.cuda.synchronize()


def best_of(devices: Sequence[Device]) -> Device:
    """Return the machine with the best of each figure."""
    peaks = {"float32": max(device.peaks["float32"] for device in devices)}
    bandwidth = max(device.bandwidth for device in devices)
    return Device("this", devices[0].title, bandwidth, peaks, devices[0].sources)


def misplaced(comparisons: Sequence[Comparison]) -> int:
    """Count the networks that have another place by bound than by clock."""
    by_bound = sorted(comparisons, key=lambda comparison: comparison.bound.seconds)
    by_clock = sorted(comparisons, key=lambda comparison: min(comparison.seconds))
    return sum(a.name != b.name for a, b in zip(by_bound, by_clock))


def main() -> int:
    """Measure and print; return 1 where a bound is none, or the order another one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds, 9 by default")
    parser.add_argument("--fuse", action="store_true", help="fold BatchNorm into the convolutions first")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    use_release()
    comparisons = compare_with_clock(options.rounds, options.fuse)
    device = comparisons[0].bound.device
    print(f"{device.title}: {device.peaks['float32'] / 1e9:.1f} GFLOPS, {device.bandwidth / 1e9:.1f} GB/s at best")
    print_table("Time bound against the clock, 640 x 640, float32", [comparison.row() for comparison in comparisons])
    wrong = misplaced(comparisons)
    print(f"The bounds rank the networks {'OTHERWISE THAN THE CLOCK' if wrong else 'as the clock does'}.")
    return int(wrong > 0 or any(comparison.ratio >= 1 for comparison in comparisons))


if __name__ == "__main__":
    sys.exit(main())
