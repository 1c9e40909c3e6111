"""Compare what `calibrate --here` makes of this machine with networks that are not among those it measures.

    python benchmarks/here.py RUNTIME [--threads N] [--turns N]

RUNTIME: what `calibrate --here` takes; its package has to be installed beside torch, torchvision and what YOLOv5 needs.
All networks are timed in turns, and the fastest pass of each counts; what the median pass takes says how busy the
machine was. Detectors are fused and end at their last convolutions.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks" / "compilers")]

import networks  # noqa: E402
from common import print_table  # noqa: E402
from tqdm import tqdm  # noqa: E402
from with_inductor import unbroken  # noqa: E402

from utils.thop.deploy.clock import Load  # noqa: E402
from utils.thop.deploy.prediction import Prediction, predict_deployed  # noqa: E402
from utils.thop.measure import here  # noqa: E402
from utils.thop.measure.networks import five_networks  # noqa: E402

OTHERS = (
    ("y5:yolov5n", 320), ("y5:yolov5n", 640), ("y5:yolov5s", 320), ("tv:resnet18", 224), ("tv:mobilenet_v2", 224),
    ("tv:squeezenet1_1", 224), ("tv:efficientnet_b0", 224),
)  # fmt: skip


def main() -> None:
    """Measure, calibrate with the five, compare with the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime", metavar="RUNTIME")
    parser.add_argument("--threads", type=int, help="all cores by default")
    parser.add_argument("--turns", type=int, default=here.TURNS, help="in which all networks are timed")
    arguments = parser.parse_args()
    here.TURNS = arguments.turns
    setting = here.setting_here(arguments.runtime, arguments.threads)
    known = five_networks()
    others = {f"{name.partition(':')[2]} at {side}": (networks.build(name), side) for name, side in OTHERS}
    for network, _ in others.values():
        unbroken(network)  # else torch.compile would make several graphs of a YOLOv5
    timed = here.time_networks({**known, **others}, setting, lambda work, unit: tqdm(work, unit=unit, leave=False))
    calibration = here.calibrate_timed(timed[: len(known)], setting)
    rows, logs = [], []
    for one in timed:
        prediction = predict_deployed(one.deployed, calibration, setting.precision)
        rows.append(row_of(one, prediction, calibration))
        if one.name in others:
            logs.append(abs(math.log(prediction.seconds / one.seconds)))
    print_table(f"{setting.runtime.name}: {setting.source}; the first five are those that it is calibrated with", rows)
    mean, most = math.exp(sum(logs) / len(logs)), math.exp(max(logs))
    print(f"The others are off by x {mean:.3f} on average, x {most:.3f} at most")


def row_of(one: here.Timed, prediction: Prediction, calibration: Any) -> dict[str, str]:
    """Return a network's times, and how far its layers are off where the runtime tells them."""
    found = {
        "network": one.name,
        "measured": f"{one.seconds * 1e3:.2f} ms",
        "median": f"x {statistics.median(one.passes) / one.seconds:.2f}",
        "predicted": f"{prediction.seconds * 1e3:.2f} ms",
        "ratio": f"{prediction.seconds / one.seconds:.2f}",
        "range": f"{prediction.low * 1e3:.2f} to {prediction.high * 1e3:.2f} ms",
        "inside": "yes" if prediction.low <= one.seconds <= prediction.high else "no",
    }
    rows = one.layers(calibration.precision)
    if rows:
        load = Load([row.works for row in rows])
        times = load.by_network(load.launches(calibration.constants)).tolist()
        whole = sum(row.seconds for row in rows)
        off = sum(row.seconds * abs(math.log(time / row.seconds)) for row, time in zip(rows, times)) / whole
        found["layers"] = f"x {math.exp(off):.2f}"
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
