"""What fits into an RTX 3090, judged by the batches that timm has found: published/training/speed.csv.

    python benchmarks/fits.py

timm's script goes down a ladder of batches until one runs. Each network that has not begun at the top gives a pair: the
batch that ran, and the one before it on the ladder, which did not. A pair is right if neither answer is wrong. The
margins in utils/thop/deploy/fits.py are those that all pairs tell; what half of them tells is judged on the other.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path
from typing import Tuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from common import print_table  # noqa: E402

from utils.thop import training  # noqa: E402
from utils.thop.deploy.fits import DOES_NOT, FITS, MAY_FIT, answer_for  # noqa: E402

TABLE = ROOT / "benchmarks" / "published" / "training" / "speed.csv"
RTX_3090 = 25.4e9


def pairs() -> list[dict[str, str]]:
    """The rows that have a batch which failed."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["next_batch_that_failed"]]


def counted(row: dict[str, str], batch: int) -> int:
    """The peak of a step as timm's script takes it under PyTorch 1.12.

    That keeps gradients, takes parameters one by one, and has no kernel for attention.
    """
    import timm

    side = int(row["imgsz"])
    images = torch.empty(batch, 3, side, side, device="meta")
    timm.layers.set_fused_attn(False)
    try:
        model = timm.create_model(row["model"])
    finally:
        timm.layers.set_fused_attn(True)
    return training(model, images, ema=False, foreach=False, accumulate=2).peak


Shares = Tuple[float, float]
"""Of the memory: the peak of the batch that ran, and of that which failed."""


def shares(row: dict[str, str]) -> Shares:
    """Count both batches of a row."""
    ran, failed = (counted(row, int(row[name])) / RTX_3090 for name in ("batch", "next_batch_that_failed"))
    return ran, failed


def margins(pairs: list[Shares]) -> Shares:
    """What surely fits, and what may: 4 % below and 3 % above the middle of what ran at most and failed at least."""
    middle = (max(ran for ran, _ in pairs) + min(failed for _, failed in pairs)) / 2
    return 0.96 * middle, 1.03 * middle


def right(pair: Shares, sure: float, most: float) -> bool:
    """Whether neither of its two answers is wrong."""
    return pair[0] <= most and pair[1] > sure


def by_halves(pairs: list[Shares], times: int = 1000) -> tuple[float, float]:
    """The part of pairs that are right, and of answers that are "may fit", by margins that the other half tells."""
    order, found = random.Random(0), []
    for _ in range(times):
        mixed = order.sample(pairs, len(pairs))
        told, asked = mixed[::2], mixed[1::2]
        sure, most = margins(told)
        may = sum(sure < share <= most for pair in asked for share in pair) / 2
        found.append((sum(right(pair, sure, most) for pair in asked) / len(asked), may / len(asked)))
    return sum(good for good, _ in found) / times, sum(may for _, may in found) / times


def answers(pair: Shares) -> tuple[str, str]:
    """What is said of the batch that ran, and of that which failed."""
    return answer_for(pair[0] * RTX_3090, RTX_3090), answer_for(pair[1] * RTX_3090, RTX_3090)


def main() -> None:
    """Judge all pairs."""
    found, rows = [], []
    for row in pairs():
        found.append(shares(row))
        ran, failed = answers(found[-1])
        wrong = "" if ran != DOES_NOT and failed != FITS else "wrong"
        rows.append({"network": row["model"], "ran": ran, "failed": failed, "": wrong})
    print_table("timm's ladder of batches on an RTX 3090", rows)
    good, may = sum(not row[""] for row in rows), sum(list(row.values()).count(MAY_FIT) for row in rows)
    print(f"\n{good} of {len(rows)} pairs are right; {may} of {2 * len(rows)} answers are '{MAY_FIT}'")
    sure, most = margins(found)
    good_elsewhere, may_elsewhere = by_halves(found)
    print(
        f"all tell {sure:.3f} and {most:.3f} of the memory; those of one half are right for {good_elsewhere:.1%} of the"
    )
    print(f"pairs of the other, and {may_elsewhere:.0%} of its answers are '{MAY_FIT}'")


if __name__ == "__main__":
    main()
