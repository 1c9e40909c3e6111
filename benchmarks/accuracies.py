"""Write the architecture of each network in utils/thop/deploy/accuracies.csv beside its accuracy.

    python benchmarks/accuracies.py

What tells a network from others is counted here; names, sizes and accuracies are put in by hand, with their sources.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from releases import LATEST, release  # noqa: E402
from tqdm import tqdm  # noqa: E402

from utils.thop.command.models import Built, Setup, counted, find  # noqa: E402
from utils.thop.deploy.measurements import ACCURACIES, accuracies, architecture_key  # noqa: E402


def key_of(built: Built) -> str:
    """The architecture of a built model."""
    return architecture_key(built.record())


def main() -> None:
    """Build each network, and write the file again."""
    torch.set_num_threads(1)
    os.chdir(release(LATEST) / "yolov5")
    found = []
    for one in tqdm(accuracies(), file=sys.stderr):
        (source,) = find([one.model])
        found.append(one._replace(architecture=counted(source, Setup(), key_of)))
    with ACCURACIES.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(found[0]._fields)
        out.writerows(found)


if __name__ == "__main__":
    main()
