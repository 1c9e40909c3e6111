"""What is published of networks: speeds on which device, and accuracies, each known by what the network computes.

published.csv has the speeds, a row for each network on a device; `make calibrate` writes it from the tables in
benchmarks/. accuracies.csv has mAP50-95 on COCO val2017, of boxes, masks or keypoints by the task, and top-1 on
ImageNet of classifiers, at the size at which they were published, with the name by which the command builds each.
"""

import csv
import hashlib
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from ..count.calls import OperatorCall
from ..count.record import Recording
from .launches import Deployed, as_deployed
from .runtimes import BATCH_NORMS, CLAMPS, CURVES

PUBLISHED = Path(__file__).with_name("published.csv")


class Measurement(NamedTuple):
    """One published speed: seconds of a pass over a batch.

    decode: whether the heads' predictions are decoded; network: what ``network_key`` says of it; model: the package
    that builds it, and its name there.
    """

    device: str
    runtime: str
    precision: str
    batch: int
    decode: bool
    seconds: float
    network: str
    model: str
    source: str


@lru_cache(maxsize=1)
def published() -> Dict[Tuple[str, str, str], List[Measurement]]:
    """All of them, by device, runtime and precision."""
    found: Dict[Tuple[str, str, str], List[Measurement]] = {}
    with PUBLISHED.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            where = row["device"], row["runtime"], row["precision"]
            numbers = int(row["batch"]), row["decode"] == "1", float(row["ms"]) / 1e3
            found.setdefault(where, []).append(
                Measurement(*where, *numbers, row["network"], row["model"], row["source"])
            )
    return found


def digest(calls: Iterable[OperatorCall], *told: Any) -> str:
    """A short digest of what is told of a network, and of the activations among its calls."""
    names = Counter(call.name.rstrip("_") for call in calls)
    curves = sorted((name, count) for name, count in names.items() if name in CURVES | CLAMPS)
    return hashlib.blake2s(repr((*told, curves)).encode(), digest_size=5).hexdigest()


def network_key(network: Deployed) -> str:
    """A digest of what a network computes of an image: its size, products, their weights, activations.

    It is the same whatever values the weights have, and after ``fuse()`` where the runtime folds BatchNorms anyway.
    """
    batch = max(network.batch, 1)
    products = [launch for launch in network.launches if launch.flops]
    weights = sum(view.elements for launch in products for view in launch.weights if len(view.shape) > 1)
    norms = sum(launch.steps[0].name in BATCH_NORMS for launch in network.launches)
    calls = (step for launch in network.launches for step in launch.steps)
    return digest(calls, network.input_shape[1:], norms, sum(launch.flops for launch in products) // batch, weights)


def find_measurement(network: Deployed, device: str, precision: str) -> Optional[Measurement]:
    """Return the published speed of a network on a device, if there is one.

    Where there is none with its heads as they are, one with heads that are decoded, or are not, is returned.
    """
    known = published().get((device, network.runtime.name, precision), [])
    alike = [one for one in known if one.batch == network.batch]
    for decode in (network.decode, not network.decode):
        there = {one.network: one for one in alike if one.decode == decode or not network.flow.heads}
        if there:
            other = network if decode == network.decode else as_deployed(network.flow, network.runtime, decode)
            found = there.get(network_key(other))
            if found is not None:
                return found
    return None


# ---- accuracies ----

ACCURACIES = Path(__file__).with_name("accuracies.csv")
TASKS = {
    "detect": "mAP50-95 on COCO",
    "segment": "mAP50-95 of masks on COCO",
    "pose": "mAP50-95 of keypoints on COCO",
    "classify": "top-1 on ImageNet",
}
"""What is published of networks for a task."""


class Accuracy(NamedTuple):
    """One published accuracy: map in per cent, of square images of so many pixels; model: what builds the network."""

    family: str
    name: str
    task: str
    model: str
    imgsz: int
    map: float
    architecture: str
    source: str


@lru_cache(maxsize=1)
def accuracies() -> List[Accuracy]:
    """All of them, family by family."""
    with ACCURACIES.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [Accuracy(**{**row, "imgsz": int(row["imgsz"]), "map": float(row["map"])}) for row in rows]  # type: ignore[arg-type]


def architecture_key(recorded: Recording) -> str:
    """A digest of a network's weights, kernels and activations, whatever the size of its images and its values."""
    weights = sum(layer.kernel for layer in recorded.layers.root.walk())
    kernels = Counter(step.geometry.kernel for step in recorded.steps if step.geometry is not None)
    return digest(recorded.steps, int(weights), sorted(kernels.items()))


@lru_cache(maxsize=1)
def _by_architecture() -> Dict[str, List[Accuracy]]:
    found: Dict[str, List[Accuracy]] = {}
    for one in accuracies():
        found.setdefault(one.architecture, []).append(one)
    return found


def known_as(recorded: Recording) -> List[Accuracy]:
    """What has been published of a network of this architecture, at one size or several."""
    return _by_architecture().get(architecture_key(recorded), [])


def accuracy_at(known: List[Accuracy], imgsz: int) -> Optional[Accuracy]:
    """The accuracy at a size; None where nobody has published one."""
    return next((one for one in known if one.imgsz == imgsz), None)
