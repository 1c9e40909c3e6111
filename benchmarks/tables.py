"""The published tables that the clock is fitted to: which network ran where, and what was counted of it.

Not to be run; `clock.py` imports this. What is counted of a network is kept in .cache/clock.pkl.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import logging
import pickle
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Tuple

import torch
from releases import CACHE, ROOT, yolo
from torch import nn
from tqdm import tqdm
from zoo import FAMILIES

from utils.thop.command.models import task_of
from utils.thop.count.record import record
from utils.thop.deploy.clock import Work, work_of
from utils.thop.deploy.launches import as_deployed
from utils.thop.deploy.measurements import published
from utils.thop.deploy.runtimes import all_runtimes
from utils.thop.run import blank

FOLDER = Path(__file__).with_name("published")
KEPT = CACHE / "clock.pkl"
_PACKAGES = {"tv": "torchvision", "timm": "timm", "y5": "yolov5", "ul": "ultralytics", "ulf": "ultralytics"}


@dataclass(frozen=True)
class Row:
    """A published speed: seconds of a pass over a batch.

    silicon: the piece of it, whatever its threads, precisions and sources are called; table: what it is shown under;
    harness: who measured it how.
    """

    table: str
    silicon: str
    device: str
    runtime: str
    precision: str
    model: str
    shape: tuple[int, ...]
    decode: bool
    seconds: float
    source: str
    harness: str = ""


class Counted(NamedTuple):
    """What was counted of a network."""

    works: list[Work]
    flops: float
    activations: float


# ---- the tables ----


def rows() -> list[Row]:
    """Read all published speeds that a runtime here is known for."""
    return [*_own(), *_others()]


_SILICON = {"jetson-orin-nano-super-cpu": "jetson-orin-nano-super"}
_DEVICES = {  # of a table: the device, its silicon
    "rdk-x5": ("rdk-x5", "rdk-x5"),
    "rdk-x5 cls": ("rdk-x5-classifiers", "rdk-x5"),
    "rdk-x5 throughput": ("rdk-x5-throughput", "rdk-x5"),
    "rdk-x5 cls throughput": ("rdk-x5-classifiers-throughput", "rdk-x5"),
    "axera ax650n 1 core": ("ax650n-1-core", "ax650n"),
    "axera ax650n 3 core": ("ax650n", "ax650n"),
    "axera ax630c": ("ax630c", "ax630c"),
    "raspberry-pi-5": ("raspberry-pi-5", "raspberry-pi-5"),
    "jetson-agx-orin": ("jetson-agx-orin", "jetson-agx-orin"),
}
_RUNTIMES = {
    "horizon-bpu": "horizon",
    "pulsar2": "pulsar2",
    "tensorrt": "tensorrt",
    "pytorch": "pytorch",
    "ncnn": "ncnn",
}
_NAMES = {"mobilenetv2-12": "tv:mobilenet_v2", "resnet50-v2-7": "tv:resnet50"}
_OWN = ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x")


def _own() -> Iterator[Row]:
    """The tables in utils, whose networks have the names of their sources."""
    for one in published():
        if one.runtime == "rknn" and one.precision != "int8":
            continue  # a handful in float16, none of which a package here builds as it was measured
        model = spec_of(one.model, one.precision)
        if model is None:
            continue
        title = f"{one.device}, {one.runtime}, {one.precision}"
        batch = 0 if one.precision == "amp" else one.shape[0]
        title += f", batch {batch}" if batch > 1 else ""
        silicon = _SILICON.get(one.device, one.device)
        place = title, silicon, one.device, one.runtime, one.precision
        yield Row(*place, model, one.shape, one.decode, one.seconds, one.source, one.source)


def spec_of(name: str, precision: str) -> str | None:
    """How to build a network of these tables; None where no package here has it."""
    if precision == "amp":
        return f"timm:{name}"
    if name in _NAMES:
        return _NAMES[name]
    if name in {f"{own}u" for own in _OWN}:
        return f"ulf:{name[:-1]}"
    if name.startswith(_OWN):
        return "y5:yolov5s;act=ReLU" if name == "yolov5s_relu" else f"y5:{name}"
    return f"ulf:{name}" if name.startswith(("yolov8", "yolov10", "yolo11")) else None


def _others() -> Iterator[Row]:
    """The tables beside this file, all of one form."""
    for file in sorted(FOLDER.glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            for line in csv.DictReader(lines):
                yield from _other(file.stem, line)


def _other(table: str, line: dict[str, str]) -> Iterator[Row]:
    name, precision = line["device"], line["precision"]
    runtime = _RUNTIMES.get(line["runtime"])
    if runtime is None or line["model"].partition(":")[0] not in _PACKAGES:
        return
    if table == "ncnn":
        if "gpu-1" not in name:
            return
        device = silicon = name
        silicon = name.split(" #")[0]
    elif name in _DEVICES:
        device, silicon = _DEVICES[name]
    else:
        return
    if runtime == "pytorch" and device == "raspberry-pi-5":
        runtime = "pytorch-cpu"
    if runtime == "ncnn" and device == "jetson-agx-orin":
        device = "jetson-agx-orin-cpu"
    batch, side = int(float(line["batch"])), int(line["imgsz"])
    place = f"{device}, {runtime}, {precision}", silicon, device, runtime, precision
    seconds = float(line["ms"]) * batch / 1e3
    yield Row(*place, line["model"], (batch, 3, side, side), line["decode"] == "1", seconds, line["source"], table)


# ---- the networks ----


def build(spec: str, fuse: bool) -> nn.Module:
    """Build a network as a table names it: package, name, options."""
    package, _, rest = spec.partition(":")
    name, *options = rest.split(";")
    make = partial(_ready, _builder(package, name, options), fuse and package in ("ul", "ulf", "y5"), options)
    try:
        with blank():
            return make()
    except Exception:
        return make()


def _ready(make: Callable[[], nn.Module], fuse: bool, options: list[str]) -> nn.Module:
    """Build a network, and make of it what its authors export."""
    model: Any = make().eval()
    if "reparam=1" in options:
        from timm.utils import reparameterize_model

        model = reparameterize_model(model)
    if fuse and hasattr(model, "fuse"):
        with contextlib.redirect_stdout(sys.stderr), silence():  # which says so
            model.fuse()
    return model


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep loggers quiet."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _builder(package: str, name: str, options: list[str]) -> Callable[[], nn.Module]:
    """What builds a network; packages are imported by now, as their classes hold tensors, which must not be blank."""
    if package == "y5":
        return partial(_yolov5, name, options)
    if package in ("ul", "ulf"):
        from ultralytics.nn import tasks

        return partial(getattr(tasks, task_of(name)), f"{name}.yaml", verbose=False)
    if package == "timm":
        import timm

        timm.layers.set_fast_norm(True)
    return partial(FAMILIES[_PACKAGES[package]].build, name)


def _yolov5(name: str, options: list[str]) -> nn.Module:
    """A network of YOLOv5 v7.0, with another activation if it is told so."""
    folder = "segment/" if name.endswith("-seg") else "hub/" if name.endswith("6") or name.startswith("yolov3") else ""
    model: Any = yolo(f"{folder}{name}.yaml")
    kind = next((option[4:] for option in options if option.startswith("act=")), None)
    for module in model.modules() if kind else ():
        if type(module).__name__ == "Conv" and isinstance(module.act, nn.SiLU):
            module.act = nn.LeakyReLU(0.1, inplace=True) if kind == "LeakyReLU" else nn.ReLU(inplace=True)
    return model


Key = Tuple[str, Tuple[int, ...], str, str, bool]


def key(row: Row) -> Key:
    """What decides about the works of a network."""
    varies = row.device in all_runtimes()[row.runtime].devices
    return row.model, row.shape, f"{row.runtime}@{row.device}" if varies else row.runtime, row.precision, row.decode


def count_all(wanted: list[Row]) -> dict[Key, Counted]:
    """Count the networks of all rows, or take what was kept of them; leave out those that can't be built, by name."""
    stamp = _stamp()
    kept: dict[str, dict[Key, Counted]] = {}
    if KEPT.is_file():
        kept = pickle.loads(KEPT.read_bytes())
    known = kept.get(stamp, {})
    missing: dict[tuple[str, tuple[int, ...], bool], list[Key]] = {}
    for one in dict.fromkeys(map(key, wanted)):
        if one not in known:
            missing.setdefault((one[0], one[1], one[3] == "amp"), []).append(one)
    for (spec, shape, amp), keys in tqdm(missing.items(), desc="counting the published networks", file=sys.stderr):
        try:
            known.update(_count(spec, shape, amp, keys))
        except Exception as error:
            print(f"left out: {spec}: {type(error).__name__}: {str(error)[:150]}", file=sys.stderr)
    if missing:
        KEPT.write_bytes(pickle.dumps({stamp: known}))
    return known


def count_one(row: Row) -> Iterator[tuple[Key, Counted]]:
    """Count the network of one row."""
    return _count(row.model, row.shape, row.precision == "amp", [key(row)])


def _count(spec: str, shape: tuple[int, ...], amp: bool, keys: list[Key]) -> Iterator[tuple[Key, Counted]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counted = record(build(spec, not amp), (torch.zeros(shape, device="meta"),), amp=amp)
    activations = float(sum(layer.output for layer in counted.layers.root.walk()))
    for one in keys:
        name, _, device = one[2].partition("@")
        deployed = as_deployed(counted, all_runtimes()[name].on(device), one[4])
        yield one, Counted(work_of(deployed, one[3]), float(deployed.flops), activations)


def _stamp() -> str:
    """A digest of what makes the works: launches, runtimes, the clock's columns."""
    digest = hashlib.sha256()
    for name in ("clock.py", "launches.py", "executed.py", "fusion.py", "rewrites.py", "branches.py", "runtimes.yaml"):
        digest.update((ROOT / "utils/thop/deploy" / name).read_bytes())
    return digest.hexdigest()
