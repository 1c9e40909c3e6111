"""Write what the published networks hold and compute, by which a user's network is told from another of its name.

    python benchmarks/networks.py

Writes utils/thop/deploy/published/networks.csv: parameters and FLOPs of one image. Takes about a minute.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from common import use_release  # noqa: E402
from tables import build, spec_of  # noqa: E402
from tqdm import tqdm  # noqa: E402

from utils.thop import traffic  # noqa: E402
from utils.thop.deploy.measurements import NETWORKS, published  # noqa: E402


def main() -> None:
    """Count each network of the tables that has no count of its parameters beside its time."""
    use_release()
    rows: dict[tuple[str, int, int], tuple[int, int]] = {}
    for measured in tqdm(published(), file=sys.stderr):
        key = measured.model, *measured.shape[2:]
        if key in rows or measured.parameters:
            continue
        spec = spec_of(measured.model, measured.precision)
        if spec is None:
            continue
        model = build(spec, fuse=False)
        found = traffic(model, torch.zeros(1, *measured.shape[1:], device="meta"))
        rows[key] = sum(parameter.numel() for parameter in model.parameters()), found.flops
    with NETWORKS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("model", "height", "width", "parameters", "flops"))
        writer.writerows(sorted((*key, *numbers) for key, numbers in rows.items()))


if __name__ == "__main__":
    main()
