"""Count the models of the latest YOLOv5 release, as the Markdown table that docs/figures.md shows.

python benchmarks/model_table.py                       print the table
python benchmarks/model_table.py --check docs/figures.md     exit with 1 if the file's table is another one
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from releases import LATEST, release
from tqdm import tqdm

from benchmarks.common import use_release
from utils.thop import profile
from utils.thop.command.models import Setup, build, find

COLUMNS = ("model", "size", "parameters (M)", "GFLOPs", "memory accesses (M)", "kernel (M)", "output (M)")
MODELS = (*((f"yolov5{s}", 640) for s in "nsmlx"), *((f"hub/yolov5{s}6", 1280) for s in "nsmlx"))


def row(cfg: str, size: int) -> str:
    """Count one model and return its row; rounding comes last, so a sum can differ by 0.1 from its parts."""
    image = torch.empty(1, 3, size, size, device="meta")  # only its shape is needed
    (source,) = find([str(release(LATEST) / "yolov5" / "models" / f"{cfg}.yaml")])
    model = build(source, Setup(), without_values=True).model  # nor are its weights looked at
    ops, parameters, kernel, output = profile(model, inputs=(image,), verbose=False)
    numbers = parameters / 1e6, ops * 2 / 1e9, (kernel + output) / 1e6, kernel / 1e6, output / 1e6
    return " | ".join([f"| {Path(cfg).name}", str(size), *(f"{number:.1f}" for number in numbers)]) + " |"


def table() -> list[str]:
    """Return the lines of the table."""
    header = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    return header + [row(cfg, size) for cfg, size in tqdm(MODELS, leave=False, disable=None)]


def table_in(text: str, header: str) -> list[str]:
    """Return the table that begins with `header` in a Markdown text, or no lines."""
    lines = [line.strip() for line in text.splitlines()]
    if header not in lines:
        return []
    found = lines[lines.index(header) :]
    end = next((i for i, line in enumerate(found) if not line.startswith("|")), len(found))
    return found[:end]


def main() -> int:
    """Print or check the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with the table in this file")
    path = parser.parse_args().check
    use_release()
    counted = table()
    if path is None:
        print("\n".join(counted))
    elif table_in(path.read_text(encoding="utf-8"), counted[0]) != counted:
        print(f"{path}: its table of models is not what `python benchmarks/model_table.py` prints")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
