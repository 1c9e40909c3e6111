"""The clock: how long launches take on a device, from its constants.

A launch takes as long as its arithmetic at the peak or its bytes at the bandwidth, whichever is more, and what it
takes to start it. A host that submits launches one by one is waited for where it is slower than the device.
"""

from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from ..answer import Rows
from ..flow import Geometry
from .eager import Moved, moved_in_eager
from .launches import Deployed, Launch
from .runtimes import Runtime

BYTES = {"int8": 1, "float16": 2, "bfloat16": 2, "float32": 4, "tf32": 4, "float64": 8}
ARITHMETIC, MEMORY, STARTING = "arithmetic", "memory", "starting launches"


class Constants(NamedTuple):
    """A device under a runtime, in one precision.

    peak: operations a second; bandwidth: bytes a second; overhead: seconds that each launch takes on top; host:
    seconds that the host needs to submit one; softmax: bytes a second of a softmax, where it has a rate of its own.
    """

    peak: float
    bandwidth: float
    overhead: float = 0.0
    host: float = 0.0
    softmax: float = 0.0


class Work(NamedTuple):
    """What one launch takes: operations in peaks, bytes of its kernel and of passes around it, and how many starts."""

    operations: float
    bytes: float
    passes: float = 0.0
    is_softmax: bool = False
    starts: int = 1


@dataclass(frozen=True)
class LaunchTime:
    """The predicted time of one launch, and what binds it: "arithmetic", "memory" or "starting launches"."""

    launch: Launch
    seconds: float
    binds: str


def work_of(deployed: Deployed, precision: str) -> List[Work]:
    """Work out what each launch takes in a precision of the runtime."""
    runtime = deployed.runtime
    moved: Dict[int, Moved] = {}
    if runtime.eager:
        steps = deployed.flow.steps
        moved = {id(s): m for s, m in zip(steps, moved_in_eager(deployed.flow, precision, runtime.adds_passes))}
    return [_work(launch, runtime, precision, moved) for launch in deployed.launches]


def _work(launch: Launch, runtime: Runtime, precision: str, moved: Dict[int, Moved]) -> Work:
    operations = sum(step.call.flops / _speed(step.geometry, runtime) for step in launch.steps if step.call.flops)
    is_softmax = "_softmax" in launch.operators
    if moved:
        parts = [moved[id(step)] for step in launch.steps]
        return Work(operations, sum(m.kernel for m in parts), sum(m.passes for m in parts), is_softmax)
    size = BYTES[precision]
    copied = launch.slices if runtime.copies_slices else []
    passes = 2.0 * size * sum(operand.elements for operand in copied)
    return Work(operations, float(launch.elements * size), passes, is_softmax, 1 + len(copied))


def _speed(geometry: Optional[Geometry], runtime: Runtime) -> float:
    """How fast a product of this form is, in peaks."""
    if geometry is None:
        return 1.0
    if geometry.depthwise:
        return runtime.depthwise
    speed = geometry.inner / (geometry.inner + runtime.inner_half)
    dense = geometry.groups == 1 and not geometry.transposed
    if dense and geometry.kernel == (3, 3) and set(geometry.stride) == {1}:
        speed *= runtime.winograd
    return speed


class Load:
    """The works of one network or several, in columns, as hundreds are timed at once where constants are sought.

    sizes: how many launches each network has.
    """

    def __init__(self, networks: Sequence[Sequence[Work]]) -> None:
        self.sizes = [len(works) for works in networks]
        rows = [[float(number) for number in work] for works in networks for work in works]
        table = torch.tensor(rows, dtype=torch.float64, device="cpu").reshape(-1, len(Work._fields))
        self.operations, self.bytes, self.passes, is_softmax, self.starts = table.unbind(1)
        self.is_softmax = is_softmax.bool()

    def launches(self, constants: Constants) -> Tensor:
        """Predict the seconds of each launch on the device."""
        moving = self.bytes / constants.bandwidth
        if constants.softmax:
            moving = torch.where(self.is_softmax, self.bytes / constants.softmax, moving)
        kernel = torch.maximum(self.operations / constants.peak, moving)
        return kernel + self.passes / constants.bandwidth + self.starts * constants.overhead

    def seconds(self, constants: Constants) -> List[float]:
        """Predict the seconds of each network: the device's, or the host's where that is slower."""
        device = self._by_network(self.launches(constants))
        host = self._by_network(self.starts * constants.host)
        return [float(seconds) for seconds in torch.maximum(device, host)]

    def _by_network(self, values: Tensor) -> Tensor:
        return torch.stack([part.sum() for part in values.split(self.sizes)])


def seconds_of(works: Sequence[Work], constants: Constants) -> float:
    """Predict the seconds of a network's launches."""
    return Load([works]).seconds(constants)[0]


def time_launches(deployed: Deployed, works: Sequence[Work], constants: Constants) -> List[LaunchTime]:
    """Predict each launch's seconds; together they are ``seconds_of``."""
    load = Load([works])
    device = load.launches(constants)
    host = load.starts * constants.host
    if float(host.sum()) > float(device.sum()):
        return Rows(LaunchTime(launch, float(one), STARTING) for launch, one in zip(deployed.launches, host))
    found = zip(deployed.launches, works, device.tolist())
    return Rows(LaunchTime(launch, seconds, _binds(work, constants)) for launch, work, seconds in found)


def _binds(work: Work, constants: Constants) -> str:
    """What the largest part of a launch's time goes to."""
    moving = (work.bytes + work.passes) / constants.bandwidth
    parts = {ARITHMETIC: work.operations / constants.peak, MEMORY: moving, STARTING: work.starts * constants.overhead}
    return max(parts, key=lambda part: parts[part])
