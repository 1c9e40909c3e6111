"""What fits into an RTX 3090, judged by the batches that timm has found: published/training/speed.csv.

    python benchmarks/fits.py

timm's script goes down a ladder of batches until one runs. Each network that has not begun at the top gives a pair: the
batch that ran, and the one before it on the ladder, which did not. A pair is right if neither answer is wrong. The
margins in utils/thop/deploy/fits.py are chosen by these.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from common import print_table  # noqa: E402

from utils.thop import training  # noqa: E402
from utils.thop.deploy.fits import DOES_NOT, FITS, MAY_FIT  # noqa: E402

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


def answers(row: dict[str, str]) -> tuple[str, str]:
    """What is said of the batch that ran, and of that which failed."""
    from utils.thop.deploy.fits import answer_for

    ran, failed = (counted(row, int(row[name])) for name in ("batch", "next_batch_that_failed"))
    return answer_for(ran, RTX_3090), answer_for(failed, RTX_3090)


def main() -> None:
    """Judge all pairs."""
    rows = []
    for row in pairs():
        ran, failed = answers(row)
        right = ran != DOES_NOT and failed != FITS
        rows.append({"network": row["model"], "ran": ran, "failed": failed, "": "" if right else "wrong"})
    print_table("timm's ladder of batches on an RTX 3090", rows)
    right, may = sum(not row[""] for row in rows), sum(list(row.values()).count(MAY_FIT) for row in rows)
    print(f"\n{right} of {len(rows)} pairs are right; {may} of {2 * len(rows)} answers are '{MAY_FIT}'")


if __name__ == "__main__":
    main()
