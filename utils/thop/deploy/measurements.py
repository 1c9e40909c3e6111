"""Published speeds of networks: what other people measured on which device.

published.csv has them, a row for each network on a device; `make calibrate` writes it from the tables in benchmarks/.
A network is known by what it computes, whatever its file is called.
"""

import csv
import hashlib
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from ..count.calls import OperatorCall
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
