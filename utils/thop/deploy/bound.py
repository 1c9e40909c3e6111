"""The time bound: the least time in which a device could run a network, operator by operator.

An operator can't be faster than its arithmetic at the device's peak, nor than its bytes at the memory's bandwidth;
operators run one after the other. So each call takes at least max(FLOPs / peak, bytes / bandwidth), the roofline of
Williams, Waterman and Patterson (Communications of the ACM, April 2009). It is a least time: only the FLOPs of
products count, those of element-wise operators do not, and starting an operator takes no time.

``launch_bound`` says the same of what a runtime launches, in its precision: there least and expected time are of one
network. ``time_bound`` is that of what ran, operator by operator, with every tensor in memory between them. Less time
is possible where a compiler fuses operators, where a cache holds a tensor from one operator to the next, and where a
convolution is computed with fewer products than its definition has (Winograd's algorithm).
"""

from dataclasses import dataclass, field
from typing import Dict, List

from ..count.calls import LayerRow, OperatorCall
from ..traffic import Traffic
from .clock import is_dense
from .devices import Device
from .launches import Deployed
from .runtimes import BYTES, DeviceError

_HEAVIEST = 5


@dataclass
class LayerBound:
    """The least time of one module's own operators.

    seconds: the sum over their calls; memory_seconds: the part of it spent in calls that memory binds, the rest is
    arithmetic's.
    """

    layer: LayerRow
    seconds: float = 0.0
    memory_seconds: float = 0.0

    @property
    def binds(self) -> str:
        """Which holds the larger part of ``seconds``: "memory" or "arithmetic"."""
        return _binds(self.seconds, self.memory_seconds)

    def add(self, arithmetic: float, memory: float) -> None:
        """Add what is executed at once, by the seconds of its arithmetic and of its bytes."""
        self.seconds += max(arithmetic, memory)
        if memory >= arithmetic:
            self.memory_seconds += memory


@dataclass
class TimeBound:
    """The least time of a network on a device; layers are in the order of ``Traffic.layers``, all that have calls."""

    device: Device
    layers: List[LayerBound] = field(repr=False)

    def heaviest(self) -> List[LayerBound]:
        """The five layers that take most of the time, the heaviest first."""
        return sorted(self.layers, key=lambda layer: layer.seconds, reverse=True)[:_HEAVIEST]

    @property
    def seconds(self) -> float:
        """The least time of the whole network."""
        return sum(layer.seconds for layer in self.layers)

    @property
    def memory_seconds(self) -> float:
        """The part of ``seconds`` spent in calls that memory binds."""
        return sum(layer.memory_seconds for layer in self.layers)

    @property
    def binds(self) -> str:
        """Which holds the larger part of ``seconds``: "memory" or "arithmetic"."""
        return _binds(self.seconds, self.memory_seconds)


def launch_bound(network: Deployed, device: Device, precision: str) -> TimeBound:
    """Bound the time of a deployed network by the device's data sheet: each launch's arithmetic, or its bytes.

    It holds for the fastest that the runtime may do: with the precision that it may take in place of the one that was
    asked for, and a dense 3 x 3 convolution of stride 1 with a quarter of its products, as Winograd's F(4 x 4, 3 x 3)
    has. A launch is charged to the module that multiplies in it, or that begins it. Raises DeviceError where the data
    sheet has no figure for the precision.
    """
    device.need_data_sheet()
    runtime = network.runtime
    names = [name for name in (*runtime.computes_in.get(precision, ()), precision) if name in device.peaks]
    if not names:
        raise DeviceError(f"{device.name} ({device.title}) has no peak for {precision} here")
    peak, size = max(device.peaks[name] for name in names), min(BYTES[name] for name in names)
    found: Dict[int, LayerBound] = {}
    for launch in network.launches:
        row = (launch.product or launch.steps[0]).layer
        bound = found.setdefault(id(row), LayerBound(row))
        operations = sum(_least_operations(step, runtime.winograd) for step in launch.steps)
        bound.add(operations / peak, launch.elements * size / device.bandwidth)
    return TimeBound(device, list(found.values()))


def _least_operations(step: OperatorCall, winograd: bool) -> float:
    """The operations of a product, with Winograd's algorithm where it applies."""
    if winograd and step.geometry is not None and is_dense(step.geometry):
        return step.flops / 4
    return float(step.flops)


def _binds(seconds: float, memory_seconds: float) -> str:
    return "arithmetic" if 2 * memory_seconds < seconds else "memory"


def time_bound(traffic: Traffic, device: Device) -> TimeBound:
    """Bound the time that ``device`` needs for the forward pass that ``traffic`` counted.

    Raises DeviceError where the device has no peak for a dtype that was used. Where FLOPs could not be counted
    (``traffic.uncounted``), it is the bound of memory alone, and still one.
    """
    device.need_data_sheet()
    bounds: Dict[int, LayerBound] = {}
    for call in traffic.calls:
        bound = bounds.setdefault(id(call.layer), LayerBound(call.layer))
        arithmetic = call.flops / device.peak(call.dtype) if call.flops and call.dtype is not None else 0.0
        bound.add(arithmetic, call.bytes / device.bandwidth)
    return TimeBound(device, [bounds[id(row)] for row in traffic.layers if id(row) in bounds])
