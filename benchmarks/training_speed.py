"""Expected times of training steps beside those that timm has measured on an RTX 3090, each network left out in turn.

    python benchmarks/training_speed.py

44 networks (published/training/speed.csv), PyTorch 1.12. The constants of forward passes are the device's; the five
numbers that training has beside them (utils/thop/deploy/training_time.py) are fitted to nine tenths of the networks and
judged on the rest, ten times over. What is counted of a network is kept in .cache/training.pkl.
"""

from __future__ import annotations

import csv
import hashlib
import math
import pickle
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy  # noqa: E402
import torch  # noqa: E402
from common import print_table  # noqa: E402
from fits import TABLE  # noqa: E402
from releases import CACHE  # noqa: E402
from tqdm import tqdm  # noqa: E402

from utils.thop import training  # noqa: E402
from utils.thop.deploy.calibration import mean_factor  # noqa: E402
from utils.thop.deploy.clock import Load  # noqa: E402
from utils.thop.deploy.devices import find_device  # noqa: E402
from utils.thop.deploy.prediction import estimate_for  # noqa: E402
from utils.thop.deploy.runtimes import all_runtimes  # noqa: E402
from utils.thop.deploy.training import Training  # noqa: E402
from utils.thop.deploy.training_time import LEARNED, REACH, Learned, works_of  # noqa: E402

PRIOR = Learned()
WIDTHS = (0.3, 0.3, 0.7, 0.3, 1.0)  # of the logarithms: how far the numbers may lie from these
FOLDS = 10
KEPT = CACHE / "training.pkl"


def counted(row: dict[str, str]) -> Training:
    """A step as timm's script takes it."""
    import timm

    side = int(row["imgsz"])
    timm.layers.set_fused_attn(False)
    try:
        model = timm.create_model(row["model"])
    finally:
        timm.layers.set_fused_attn(True)
    images = torch.empty(int(row["batch"]), 3, side, side, device="meta")
    return training(model, images, ema=False, foreach=False, accumulate=2)


class Launches:
    """The launches of steps, in columns, which the five numbers change."""

    def __init__(self, steps: list[Training]) -> None:
        neutral = [works_of(step, Learned(depthwise=1.0)) for step in steps]
        forward = [len(step.forward.calls) for step in steps]
        self.load = Load(neutral)
        self.work = self.load.work
        later = [i >= first for works, first in zip(neutral, forward) for i in range(len(works))]
        self.products = torch.tensor(later) & (self.work.operations > 0)
        self.passes = torch.tensor(later) & (self.work.operations == 0)
        known, _ = estimate_for(find_device("rtx-3090"), all_runtimes()["pytorch"], "amp")
        self.constants = known.constants("amp")

    def logarithms(self, learned: Learned) -> Any:
        """The logarithms of the expected seconds."""
        one, work = torch.ones(1, dtype=torch.float64), self.work
        products = torch.where(self.products, learned.products * one, one)
        self.load.work = work._replace(
            operations=work.operations * products,
            by_inner=work.by_inner * products,
            dense=work.dense * products,
            depthwise=work.depthwise * torch.where(self.products, learned.depthwise * one, one),
            bytes=work.bytes * torch.where(self.passes, learned.moved * one, one),
        )
        changed = self.constants._replace(overhead=self.constants.overhead + learned.launch)
        return numpy.log(learned.scale * self.load.seconds(changed).numpy())


def logarithms(steps: list[Training], learned: Learned) -> Any:
    """The logarithms of the expected seconds."""
    return Launches(steps).logarithms(learned)


def fitted(steps: list[Training], measured: Any) -> Learned:
    """The five numbers, which stay near the prior where the networks don't tell."""
    from scipy.optimize import minimize

    prior, launches = numpy.log(PRIOR), Launches(steps)

    def loss(point: Any) -> float:
        off = numpy.abs(launches.logarithms(Learned(*numpy.exp(point))) - measured)
        return float((off**1.3).sum() + 0.15 * (((point - prior) / WIDTHS) ** 2).sum())

    options = {"maxiter": 300, "xatol": 1e-3, "fatol": 1e-4}
    return Learned(*numpy.exp(minimize(loss, prior, method="Nelder-Mead", options=options).x))


def counted_all(rows: list[dict[str, str]]) -> list[Training]:
    """Count the steps of all rows, or take what was kept of them in .cache."""
    digest = hashlib.sha256(TABLE.read_bytes())
    for path in sorted((ROOT / "utils/thop").rglob("*.py")):
        digest.update(path.read_bytes())
    if KEPT.is_file():
        stamp, steps = pickle.loads(KEPT.read_bytes())
        if stamp == digest.hexdigest():
            return steps  # type: ignore[no-any-return]
    steps = [counted(row) for row in tqdm(rows, desc="counting steps of training", file=sys.stderr)]
    for step in steps:
        step.recount = step.subject = None  # which lead to the model
    KEPT.write_bytes(pickle.dumps((digest.hexdigest(), steps)))
    return steps


class Judged(NamedTuple):
    """Networks, and the logarithms of expected to measured: of the numbers in use, and of those of other networks."""

    rows: list[dict[str, str]]
    steps: list[Training]
    measured: Any
    in_use: Any
    left_out: Any

    def words(self, off: Any) -> str:
        """How far off that is, and how often it is within the range."""
        held = (numpy.abs(off) <= math.log(REACH)).mean()
        return f"off by x {mean_factor(numpy.exp(off)):.3f} on average; {held:.0%} lie within x {REACH}"


def judged() -> Judged:
    """Count each network once, and expect its time with numbers that it has no part in."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    steps = counted_all(rows)
    measured = numpy.log([float(row["published_step_ms"]) / 1e3 for row in rows])
    left_out = numpy.zeros(len(rows))
    order = numpy.random.default_rng(0).permutation(len(rows))
    for fold in range(FOLDS):
        tested = order[fold::FOLDS]
        others = [i for i in range(len(rows)) if i not in tested]
        learned = fitted([steps[i] for i in others], measured[others])
        left_out[tested] = logarithms([steps[i] for i in tested], learned) - measured[tested]
    return Judged(rows, steps, measured, logarithms(steps, LEARNED) - measured, left_out)


def row_of_clock() -> str:
    """The row that `make clock` prints."""
    found = judged()
    return f"steps of training, {len(found.rows)} networks on an RTX 3090, left out: {found.words(found.left_out)}"


def main() -> None:
    """Print how far the numbers in use are off, and how far those would be that a network has no part in."""
    found = judged()
    print_table(
        "Steps of training on an RTX 3090, expected to measured",
        [
            {"network": row["model"], "in use": f"x {math.exp(a):.2f}", "left out": f"x {math.exp(b):.2f}"}
            for row, a, b in zip(found.rows, found.in_use, found.left_out)
        ],
    )
    print(f"\n{fitted(found.steps, found.measured)}")
    for name, off in (("in use", found.in_use), ("left out", found.left_out)):
        print(f"{name}: {found.words(off)}")


if __name__ == "__main__":
    main()
