"""The clock: how long launches take on a device, from its constants.

A launch takes as long as its arithmetic at the peak or its bytes at the bandwidth, whichever is more, and what it
takes to start it. A host that submits launches one by one is waited for where it is slower than the device.
"""

from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Sequence

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


def seconds_of(works: Sequence[Work], constants: Constants) -> float:
    """Predict the seconds of all launches."""
    peak, bandwidth, overhead, host, softmax = constants
    total, launches = 0.0, 0
    for operations, moved, passes, is_softmax, starts in works:
        total += max(operations / peak, moved / (softmax if is_softmax and softmax else bandwidth)) + passes / bandwidth
        launches += starts
    return max(total + overhead * launches, host * launches)


def time_launches(deployed: Deployed, works: Sequence[Work], constants: Constants) -> List[LaunchTime]:
    """Predict each launch's seconds; together they are ``seconds_of``."""
    waiting = constants.host * sum(work.starts for work in works)
    if waiting and seconds_of(works, constants) <= waiting:
        return [LaunchTime(launch, constants.host * w.starts, STARTING) for launch, w in zip(deployed.launches, works)]
    alone = constants._replace(host=0.0)
    return [LaunchTime(launch, seconds_of([w], alone), _binds(w, alone)) for launch, w in zip(deployed.launches, works)]


def _binds(work: Work, constants: Constants) -> str:
    """What the largest part of a launch's time goes to."""
    moving = (work.bytes + work.passes) / constants.bandwidth
    parts = {ARITHMETIC: work.operations / constants.peak, MEMORY: moving, STARTING: work.starts * constants.overhead}
    return max(parts, key=lambda part: parts[part])
