"""The published tables that the clock is fitted to: which network ran where, and what was counted of it.

Not to be run; `clock.py` imports this. What is counted of a network is kept in .cache/clock.pkl.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import logging
import pickle
import re
import sys
import warnings
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Tuple

import torch
import yaml
from releases import CACHE, ROOT, yolo
from torch import nn
from tqdm import tqdm
from zoo import FAMILIES

from utils.thop.command.models import task_of
from utils.thop.count.record import record
from utils.thop.deploy.clock import Work, work_of
from utils.thop.deploy.devices import load_devices
from utils.thop.deploy.launches import as_deployed
from utils.thop.deploy.measurements import network_key
from utils.thop.deploy.runtimes import all_runtimes, runtime_for
from utils.thop.run import blank

FOLDER = Path(__file__).with_name("published")
KEPT = CACHE / "clock.pkl"
_PACKAGES = {"tv": "torchvision", "timm": "timm", "y5": "yolov5", "ul": "ultralytics", "ulf": "ultralytics"}


@dataclass(frozen=True)
class Row:
    """A published speed: seconds of a pass over a batch.

    silicon: the piece of it, whatever its threads, precisions and sources are called; table: what it is shown under.
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


class Counted(NamedTuple):
    """What was counted of a network."""

    works: list[Work]
    flops: float
    activations: float
    network: str


# ---- the tables ----


def rows() -> list[Row]:
    """Read all published speeds of networks that a package here builds, but for what places.yaml leaves out."""
    found = []
    for table, place in places().items():
        if table == "silicon":
            continue
        with (FOLDER / f"{table}.csv").open(encoding="utf-8", newline="") as lines:
            found += [row for line in csv.DictReader(lines) for row in [_row(table, place, line)] if row]
    return found


@lru_cache(maxsize=1)
def places() -> dict[str, Any]:
    """Which device, runtime and silicon a row is of, by table."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "places.yaml").read_text(encoding="utf-8"))
    return found


def _row(table: str, place: dict[str, Any], line: dict[str, str]) -> Row | None:
    """Make out what a row is of; None where it is left out."""
    if line["model"].partition(":")[0] not in _PACKAGES or _is_left_out(place.get("left_out", {}), line):
        return None
    name, devices = line["device"], place["devices"]
    device = devices.get(f"{name} {line['runtime']}") or devices.get(name) or f"~{name}"
    runtime = runtime_for(place.get("runtimes", {}).get(line["runtime"], line["runtime"]), kind_of(device, name)).name
    device = device.lstrip("~")
    batch, side = int(float(line["batch"])), int(line["imgsz"])
    shape, seconds = (batch, 3, side, side), float(line["ms"]) * batch / 1e3
    title = f"{device}, {runtime}, {line['precision']}"
    title += f", batch {batch}" if batch > 1 and line["precision"] != "amp" else ""
    where = title, silicon_of(device), device, runtime, line["precision"]
    return Row(*where, line["model"], shape, line["decode"] == "1", seconds, line["source"])


def _is_left_out(left_out: dict[str, dict[str, str]], line: dict[str, str]) -> bool:
    """Whether a row's network, remark or place is named among those that are left out."""
    names = {line["device"], f"{line['device']} {line['runtime']}"}
    remarks = any(word in line["note"] for word in left_out.get("notes", {}))
    return remarks or line["model"] in left_out.get("models", {}) or bool(names & set(left_out.get("places", {})))


def kind_of(device: str, called: str) -> str:
    """The kind of a device: its own, or, of one that no user can name, that of what it is called."""
    known = load_devices().get(device)
    if known:
        return known.kind
    return "gpu" if " gpu" in called and " gpu-1" not in called else "cpu" if " gpu-1" in called else "npu"


_PARTS = re.compile(r"(-(cpu|gpu|npu|throughput|1-core|classifiers|super|10-kernels))+$")


def silicon_of(device: str) -> str:
    """The piece of it, whatever its threads, precisions and sources are called."""
    board = device.split(" #")[0]
    known = {name.split(" #")[0]: here for name, here in places()["ncnn"]["devices"].items()}
    return next(
        (chip for word, chip in places()["silicon"].items() if word in device), _PARTS.sub("", known.get(board, board))
    )


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
        yield one, Counted(work_of(deployed, one[3]), float(deployed.flops), activations, network_key(deployed))


def _stamp() -> str:
    """A digest of what makes the works: launches, runtimes, the clock's columns."""
    digest = hashlib.sha256()
    names = ("clock", "launches", "executed", "fusion", "rewrites", "branches", "measurements", "runtimes")
    for name in (*(f"{name}.py" for name in names), "runtimes.yaml"):
        digest.update((ROOT / "utils/thop/deploy" / name).read_bytes())
    return digest.hexdigest()
