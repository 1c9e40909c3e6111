"""Published accuracies of networks, at the size at which they were published.

That is mAP50-95 on COCO val2017, of boxes, masks or keypoints by the task, and top-1 on ImageNet of classifiers.

accuracies.csv has them, with the name by which the command builds each network. A network is known by its architecture,
whatever its file is called.
"""

import csv
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

from ..count.record import Recording
from .measurements import digest

PUBLISHED = Path(__file__).with_name("accuracies.csv")
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
    with PUBLISHED.open(encoding="utf-8", newline="") as lines:
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
