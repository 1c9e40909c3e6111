"""The clock: how long launches take on a device under a runtime, one formula for all of them.

    launch = (max(arithmetic, look-ups)^p + memory^p)^(1/p) + passes + overhead
    network = max(sum of launches, launches x host) + start

Arithmetic is operations / peak, memory bytes / bandwidth, each kind of work at its own rate; p says how far the two
overlap: 1 for one after the other, and the larger of both as it grows. Some NPUs look curves up for each output, on the
way out of a product and while the next is computed: the output stage. A host that submits launches one by one is waited
for where it is slower than the device. What each device has is an estimate (``estimates.py``).
"""

import math
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from ..answer import Rows
from ..count.calls import Geometry, OperatorCall, View
from .launches import Deployed, Launch
from .runtimes import BYTES, CURVES, Runtime

_HALF = 2
POINTWISE_LAYOUT = 0.15  # of the layout changes around a 1 x 1 convolution, which mostly runs as a matrix product


def _size(operand: View, halved: bool) -> int:
    """Bytes of an element."""
    return _HALF if halved and operand.dtype.is_floating_point else operand.itemsize


def _added_passes(step: OperatorCall, halved: bool) -> float:
    """Bytes of what CUDA's libraries do around their kernels: bias, layout, copies."""
    if step.name == "aten::native_layer_norm":
        x = step.reads[0]
        return 0.0 if x.dense else 2.0 * x.elements * _size(x, halved)
    if step.geometry is None or "conv" not in step.name or not step.reads or not step.writes:
        return 0.0
    x, out = step.reads[0], step.writes[0]
    with_bias = any(len(operand.shape) == 1 for operand in step.reads[1:])
    bias = 2.0 * out.elements * _size(out, halved) if with_bias else 0.0
    if step.geometry.depthwise or x.channels_last:
        return bias
    share = POINTWISE_LAYOUT if set(step.geometry.kernel) == {1} else 1.0
    return bias + share * 2.0 * (x.elements + out.elements) * _size(x, halved)


ARITHMETIC, MEMORY, OUTPUT_STAGE, STARTING = "arithmetic", "memory", "output stage", "starting launches"


class Constants(NamedTuple):
    """A device under a runtime, in one precision.

    peak: operations a second; bandwidth: bytes a second; overhead: seconds that each launch takes on top; start: that
    each pass does; host: seconds that the host needs to submit a launch; overlap: p - 1.

    Factors of the time that a part takes beside others, of the same operations: depthwise products, products of
    activations (attention), dense 3 x 3 convolutions of stride 1; inner: the length of the inner product at which a
    product reaches half of the peak; lookup: operations that looking up a curve is worth. Of the same bytes: softmax,
    norms over channels, concatenations, pooling, what leaves the accelerator, what is returned, weights; curve:
    of each output that an activation such as SiLU is computed for; passes: of copies around kernels.
    """

    peak: Any
    bandwidth: Any
    overhead: Any = 0.0
    start: Any = 0.0
    host: Any = 0.0
    overlap: Any = float("inf")
    depthwise: Any = 1.0
    activations: Any = 1.0
    dense: Any = 1.0
    inner: Any = 0.0
    lookup: Any = 0.0
    softmax: Any = 1.0
    norm: Any = 1.0
    concat: Any = 1.0
    pool: Any = 1.0
    leaving: Any = 1.0
    returned: Any = 1.0
    weights: Any = 1.0
    curve: Any = 0.0
    passes: Any = 1.0


class Work(NamedTuple):
    """What one launch takes, and how much of it is of a kind that has a rate of its own.

    operations of all products, on padded channels too, of depthwise ones, of products of activations, of dense 3 x 3
    convolutions of stride 1, by_inner: divided by the length of the inner product; lookup: outputs whose curve is
    looked up; bytes of activations, of those of softmax, of norms over channels, of concatenations, of pooling, of
    what leaves the accelerator, of what the network returns, of weights, of outputs of curves that are computed;
    passes: bytes of copies around.
    """

    operations: float = 0.0
    depthwise: float = 0.0
    activations: float = 0.0
    dense: float = 0.0
    by_inner: float = 0.0
    lookup: float = 0.0
    bytes: float = 0.0
    softmax: float = 0.0
    norm: float = 0.0
    concat: float = 0.0
    pool: float = 0.0
    leaving: float = 0.0
    returned: float = 0.0
    weights: float = 0.0
    curve: float = 0.0
    passes: float = 0.0


@dataclass(frozen=True)
class LaunchTime:
    """The predicted time of one launch, and what binds it.

    That is "arithmetic", "memory", "output stage" or "starting launches".
    """

    launch: Launch
    seconds: float
    binds: str


def work_of(deployed: Deployed, precision: str) -> List[Work]:
    """Work out what each launch takes in a precision of the runtime.

    In eager mode "float16" is the model after ``half()``, and so is under "amp" a run that could not be made so.
    """
    halved = precision == "float16" or (precision == "amp" and not deployed.flow.amp)
    return [_work(launch, deployed.runtime, precision, halved) for launch in deployed.launches]


_NORMS = ("layer_norm", "group_norm", "rms_norm")
_SOFTMAX = 2.5  # a CPU reads a row for its largest, reads and writes exponentials, reads and writes shares: 5 for 2


def _work(launch: Launch, runtime: Runtime, precision: str, halved: bool) -> Work:
    names = launch.operators
    weights = launch.weight_elements
    size = float(BYTES.get(precision, BYTES["float16"]))
    passes = 0.0
    if runtime.eager:
        moved = (operand for step in launch.steps for operand in (*step.reads, *step.writes))
        all_bytes = sum(operand.elements * _size(operand, halved) for operand in moved)
        if runtime.adds_passes:
            passes = sum(_added_passes(step, halved) for step in launch.steps)
        weights_bytes = min(weights * size, all_bytes)
        bytes_ = all_bytes - weights_bytes
    else:
        bytes_, weights_bytes = size * (launch.elements - weights), size * weights
    work = dict.fromkeys(("operations", "depthwise", "activations", "dense", "by_inner"), 0.0)
    for step in launch.steps:
        if step.flops:
            _add_product(work, step, launch.weights, runtime.padding)
    curves = sum(_outputs(step, runtime.padding[1]) for step in launch.steps if step.name in CURVES)
    leaves, normalizes = launch.leaves is not None, any("softmax" in name for name in names)
    return Work(
        **work,
        bytes=bytes_,
        leaving=bytes_ * (_SOFTMAX if normalizes else 1.0) if leaves else 0.0,
        returned=0.0 if runtime.eager else size * launch.returned,
        softmax=bytes_ if normalizes and not leaves else 0.0,
        norm=bytes_ if any(norm in name for name in names for norm in _NORMS) else 0.0,
        concat=bytes_ if names == ["cat"] else 0.0,
        pool=bytes_ if "pool" in names[0] else 0.0,
        weights=weights_bytes,
        lookup=curves if runtime.looks_up else 0.0,
        curve=0.0 if runtime.looks_up else curves * size,
        passes=passes,
    )


def _add_product(work: Dict[str, float], step: OperatorCall, weights: Sequence[View], padding: Tuple[int, int]) -> None:
    """Add a product's operations, those on padding among them, to the kinds of work that they are."""
    flops, geometry = float(step.flops), step.geometry
    constant = {operand.value for operand in weights}
    of_activations = "attention" in step.name or not any(operand.value in constant for operand in step.reads)
    if geometry is not None and geometry.groups == 1 and not of_activations:
        channels = geometry.inner // math.prod(geometry.kernel), geometry.columns
        flops *= math.prod(map(_filled, channels, padding))
    work["operations"] += flops
    if geometry is None:
        return
    work["by_inner"] += flops / max(geometry.inner, 1)
    if geometry.depthwise:
        work["depthwise"] += flops
    elif of_activations:
        work["activations"] += flops
    elif is_dense(geometry):
        work["dense"] += flops


def is_dense(geometry: Geometry) -> bool:
    """Say whether a product is a convolution that Winograd's algorithm computes with fewer products."""
    plain = geometry.groups == 1 and not geometry.transposed
    return plain and geometry.kernel == (3, 3) and set(geometry.stride) == {1}


def _outputs(step: OperatorCall, unit: int) -> float:
    """Elements of a result, with those of the channels that it is filled up with, as its convolution has made it."""
    if not step.writes:
        return 0.0
    result = step.writes[0]
    channels = result.shape[1] if len(result.shape) == 4 else unit
    return result.elements * _filled(channels, unit)


def _filled(count: int, unit: int) -> float:
    """How many times as many there are where they come in whole units."""
    return math.ceil(count / unit) * unit / max(count, 1)


class Load:
    """The works of one network or several, in columns, as hundreds are timed at once where constants are sought.

    sizes: how many launches each network has.
    """

    def __init__(self, networks: Sequence[Sequence[Work]]) -> None:
        self.sizes = [len(works) for works in networks]
        rows = [work for works in networks for work in works]
        table = torch.tensor(rows, dtype=torch.float64, device="cpu").reshape(-1, len(Work._fields))
        self.work: Any = Work(*table.unbind(1))  # type: ignore[arg-type] # a column for each of its numbers
        self.counts = torch.tensor(self.sizes, dtype=torch.float64, device="cpu")
        self.ends = torch.tensor(self.sizes, device="cpu").cumsum(0)

    def parts(self, c: Constants) -> List[Tensor]:
        """The seconds of each launch's arithmetic, output stage and memory, and of the passes around them."""
        w = self.work
        operations = w.operations + w.depthwise * (c.depthwise - 1) + w.activations * (c.activations - 1)
        operations = operations + w.dense * (c.dense - 1) + w.by_inner * c.inner
        moved = w.bytes + w.softmax * (c.softmax - 1) + w.norm * (c.norm - 1) + w.concat * (c.concat - 1)
        moved = moved + w.pool * (c.pool - 1) + w.leaving * (c.leaving - 1) + w.returned * (c.returned - 1)
        moved = moved + w.weights * c.weights + w.curve * c.curve
        looked_up = w.lookup * c.lookup
        return [operations / c.peak, looked_up / c.peak, moved / c.bandwidth, w.passes * c.passes / c.bandwidth]

    def launches(self, c: Constants) -> Tensor:
        """Predict the seconds of each launch on the device; constants may be columns, and give rows then."""
        arithmetic, looked_up, memory, passes = self.parts(c)
        power = 1.0 + c.overlap
        inside = torch.maximum(arithmetic, looked_up)
        larger = torch.maximum(inside, memory).clamp_min(1e-15)
        kernel = larger * ((inside / larger) ** power + (memory / larger) ** power) ** (1.0 / power)
        return kernel + passes + c.overhead

    def seconds(self, c: Constants) -> Tensor:
        """Predict the seconds of each network: the device's, or the host's where that is slower."""
        return torch.maximum(self.by_network(self.launches(c)), self.counts * c.host) + c.start

    def by_network(self, values: Tensor) -> Tensor:
        """Sum launches, in the last axis, network by network."""
        sums = torch.nn.functional.pad(values.cumsum(-1), (1, 0))
        ends = sums.index_select(-1, self.ends)
        return ends - torch.nn.functional.pad(ends[..., :-1], (1, 0))


def seconds_of(works: Sequence[Work], constants: Constants) -> float:
    """Predict the seconds of a network's launches."""
    return float(Load([works]).seconds(constants)[0])


def time_launches(deployed: Deployed, load: Load, constants: Constants) -> List[LaunchTime]:
    """Predict the seconds of each of one network's launches; with the start of the pass in them they are its time."""
    device, (arithmetic, looked_up, memory, passes) = load.launches(constants), load.parts(constants)
    start = constants.start / max(load.sizes[0], 1)
    if constants.host * len(deployed.launches) > float(device.sum()):
        return Rows(LaunchTime(one, constants.host + start, STARTING) for one in deployed.launches)
    rows = zip(deployed.launches, *(part.tolist() for part in (device, arithmetic, looked_up, memory + passes)))
    found = []
    for launch, seconds, computing, looking_up, moving in rows:
        parts = {ARITHMETIC: computing, OUTPUT_STAGE: looking_up, MEMORY: moving, STARTING: constants.overhead}
        found.append(LaunchTime(launch, seconds + start, max(parts, key=lambda part: parts[part])))
    return Rows(found)
