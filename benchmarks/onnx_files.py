"""Exported networks against the cfgs that they were made of: launches, elements, time, for all cfgs of YOLOv5 v7.0.

    python benchmarks/onnx_files.py [CFG ...]        28 by default; some two minutes

Each is built with random weights, fused, exported with ``torch.onnx.export(dynamo=False)`` at 640 x 640 and read again.
"""

import copy
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from releases import ALL_CFGS, CACHE, quiet, yolo, yolo_settings  # noqa: E402

from utils.thop import deployed, predict  # noqa: E402
from utils.thop.deploy.launches import as_deployed  # noqa: E402
from utils.thop.deploy.runtimes import find_runtime  # noqa: E402
from utils.thop.measure.onnx_graph import read_onnx  # noqa: E402
from utils.thop.show.grid import Column, Grid, Line, to_text  # noqa: E402

PLACES = (("rk3588", "rknn"), ("t4", "tensorrt"))
COUNTS = ("weight_elements", "read_elements", "written_elements")


def differences(cfg: str, folder: Path) -> List[Line]:
    """A row for each device: how an export's numbers differ from those of its cfg."""
    with quiet():
        model = yolo(cfg).eval().fuse()
    file, image = folder / "best.onnx", torch.zeros(1, 3, 640, 640)
    export = copy.deepcopy(model)
    export.model[-1].export, export.model[-1].inplace = True, False
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        torch.onnx.export(export, (image,), str(file), dynamo=False, opset_version=17, input_names=["images"])
    start = time.perf_counter()
    recording = read_onnx(file)
    seconds = time.perf_counter() - start
    lines = []
    for device, runtime in PLACES:
        ours, theirs = as_deployed(recording, find_runtime(runtime)), deployed(model, (image,), runtime, decode=True)
        pairs = [(getattr(ours, name), getattr(theirs, name)) for name in COUNTS]
        pairs.append((predict(ours, device=device).seconds, predict(theirs, device=device).seconds))
        launches = str(len(ours.launches)), str(len(theirs.launches))
        off = [f"{one / other - 1:+.2%}" for one, other in pairs]
        lines.append(Line([cfg.rpartition(".")[0], runtime, *launches, *off, f"{seconds:.1f}"]))
    return lines


def main() -> None:
    """Print the table."""
    import os

    os.environ.update(yolo_settings(CACHE / "settings"))
    names = ("launches", "of the cfg", "weights", "read", "written", "time")
    columns = [
        Column("cfg", is_text=True),
        Column("runtime", is_text=True),
        *map(Column, names),
        Column("reading", "s"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = [line for cfg in sys.argv[1:] or ALL_CFGS for line in differences(cfg, Path(folder))]
    print(to_text(Grid(columns, rows)))


if __name__ == "__main__":
    main()
