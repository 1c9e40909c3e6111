"""How well a choice is made: the front and the rates reached by predictions of families that were left out.

    python benchmarks/choice.py [--variants N]

For each device the networks of one family after the other are left out of the fit, and predicted by the rest; what is
fast enough, and who is on the front of accuracy over time, is compared with published times. With --variants, N
networks that a function makes are counted by two processes, and timed.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from clock import SPREAD, Place, fit_all, learn, read_places  # noqa: E402
from common import use_release  # noqa: E402
from releases import LATEST, release  # noqa: E402

from utils.thop.command.checkout import read_cfg  # noqa: E402
from utils.thop.deploy.choice import Candidate, chance_of, ranked  # noqa: E402
from utils.thop.deploy.estimates import prior_of  # noqa: E402
from utils.thop.deploy.fitting import before, fit_from  # noqa: E402
from utils.thop.deploy.measurements import accuracies  # noqa: E402
from utils.thop.deploy.runtimes import all_runtimes  # noqa: E402
from utils.thop.run import alone  # noqa: E402

RATES = {("rk3588", "rknn"): (15, 30, 60), ("rdk-x5", "horizon"): (15, 30, 60), ("t4", "tensorrt"): (100, 200, 400)}


def known_map(spec: str, side: int) -> tuple[str, float] | None:
    """The family of a published row and its accuracy, where it is a known detector at that size."""
    package, _, name = spec.partition(":")
    name += "u" if package in ("ul", "ulf") and name.startswith("yolov5") else ""
    detectors = (one for one in accuracies() if one.task == "detect")
    return next(((one.family, one.map) for one in detectors if (one.name, one.imgsz) == (name, side)), None)


def left_out(place: Place, prior: Any) -> list[tuple[Candidate, float]]:
    """Each known detector of a place, predicted without its family; with its published seconds."""
    known = [known_map(row.model, row.shape[-1]) for row in place.rows]
    found, names = [], place.groups.precisions
    factors = prior_of(all_runtimes()[place.runtime])
    for family in {one[0] for one in known if one}:
        stem = re.compile(rf"{family.lower().rstrip('u')}")
        out = [i for i, one in enumerate(known) if one and one[0] == family]
        rest = [i for i in range(len(place.rows)) if not stem.search(place.rows[i].model)]
        part = place.part(rest)
        estimate = fit_from(part, *before(part, prior, place.sheet, names), SPREAD, names)
        for i in out:
            row = place.rows[i]
            (load,) = place.part([i]).loads
            seconds, width = (float(value[0]) for value in estimate.predict(load, row.precision))
            reach = math.exp(factors.factor(len(rest)) * width)
            times = {"seconds": seconds, "low": seconds / reach, "high": seconds * reach}
            found.append((Candidate(row.model, family, row.shape[-1], map=known[i][1], **times), row.seconds))  # type: ignore[index]
    return found


def front(rows: list[Candidate]) -> set[str]:
    """The names of those on the front."""
    return {row.name for row in ranked(rows) if row.on_front}


def variant(number: int) -> Any:
    """A YOLOv5n of another width and depth."""
    use_release()  # in a process of its own, too
    with alone():
        from yolov5.models.yolo import DetectionModel

        DetectionModel.info = lambda *_, **__: None  # what nobody reads would count each network once more
        cfg = read_cfg(release(LATEST) / "yolov5/models/yolov5n.yaml")
        cfg.update(width_multiple=0.125 + 0.0005 * number, depth_multiple=0.33 if number % 2 else 0.67)
        return DetectionModel(cfg)


def main() -> None:
    """Print a line for each device and rate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--variants", type=int, metavar="N", help="count N networks in two processes instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    use_release()
    if arguments.variants:
        from utils.thop import choose

        started = time.perf_counter()
        makers = [partial(variant, i) for i in range(arguments.variants)]
        found = choose(makers, device="rk3588", fps=30, imgsz=[640], jobs=2)
        failed = sum(bool(row.error) for row in found.rows)
        print(*{row.error for row in found.rows if row.error}, sep="\n")
        print(f"{len(found.rows)} networks, {failed} failed, {time.perf_counter() - started:.1f} s")
        return
    places = [place for place in read_places() if not all_runtimes()[place.runtime].refuses]
    fit_all(places)
    chosen = [place for place in places if (place.device, place.runtime) in RATES]
    print("| device | networks | of the front by published times | rate | likely | of them slower by more than 10% |")
    print("| --- | --- | --- | --- | --- | --- |")
    for place in chosen:
        prior = learn(places, place.runtime, place.silicon)
        rows = left_out(place, prior)
        published = [Candidate(row.name, row.family, row.imgsz, seconds=seconds, map=row.map) for row, seconds in rows]
        really, said = front(published), front([row for row, _ in rows])
        for rate in RATES[place.device, place.runtime]:
            likely = [
                (row, seconds) for row, seconds in rows
                if chance_of(1 / rate, row.seconds, math.log(row.high / row.seconds) / 1.645) >= 0.9
            ]  # fmt: skip
            missed = [row.name for row, seconds in likely if seconds * rate > 1.1]
            print(f"| {place.device} | {len(rows)} | {len(really & said)} of {len(really)} | {rate} | {len(likely)} | "
                  f"{', '.join(missed) or 'none'} |")  # fmt: skip


if __name__ == "__main__":
    main()
