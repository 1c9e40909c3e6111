"""The deployed network: what a runtime executes at once, made from the calls of a run and their data flow.

A compiler drops what nobody asks for, makes in advance what depends on no input, folds a BatchNorm into the product
before it, and lets a product compute the point-wise operators that follow it while the result is still in registers.
What a launch reads was written by others or is a weight; what it writes is read by others or returned.
"""

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import Any, Dict, Hashable, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from torch import Tensor, nn

from ..answer import Answer, Rows
from ..count.calls import OperatorCall, View
from ..count.record import Recording, in_blocks, record
from ..run import as_inputs, as_model, collector_paused
from .branches import merge_branches
from .executed import Executed, Unit, above, asked_for, executed, is_inside, paths_of
from .fusion import fused
from .rewrites import copy_slices, rewritten
from .runtimes import BATCH_NORMS, BYTES, FREE, ONCE, Runtime, find_runtime

_BIAS = 4  # bytes of an element where products are summed in 32 bits


@dataclass(repr=False)
class Launch:
    """What a runtime executes at once.

    steps: its calls; reads, writes: the operands that others have written, or want; weights: those that no input
    reaches; folded_biases: elements that folded BatchNorms have left; returned: elements that the network returns;
    leaves: where the runtime gives it back to the CPU, because of which operator of which module, and why it does so.
    """

    steps: List[OperatorCall]
    reads: List[View] = field(default_factory=list, repr=False)
    writes: List[View] = field(default_factory=list, repr=False)
    weights: List[View] = field(default_factory=list, repr=False)
    folded_biases: int = 0
    returned: int = 0
    leaves: Optional[Tuple[str, str, str]] = field(default=None, repr=False)

    def __repr__(self) -> str:
        what, where = " + ".join(self.operators), ", ".join(self.layers)
        return f"Launch({what} of {where or 'the model itself'}: {self.flops:,} FLOPs, {self.elements:,} elements)"

    @property
    def operators(self) -> List[str]:
        """The ATen operators, in the order in which they ran."""
        return [step.facts.operator for step in self.steps]

    @property
    def layers(self) -> List[str]:
        """The modules that they belong to, by their paths; a layer that ran several stands once."""
        return list(dict.fromkeys(step.path for step in self.steps))

    @property
    def flops(self) -> int:
        """Floating-point operations of its products, two a multiply-accumulate."""
        return sum(step.flops for step in self.steps)

    @property
    def weight_elements(self) -> int:
        """Elements of parameters, buffers and what is made of them; a folded BatchNorm leaves a bias."""
        return _elements(self.weights) + self.folded_biases

    def weight_bytes(self, size: int) -> int:
        """Bytes of its weights, with ``size`` of an element; beside one of 8 bits a bias has 32."""
        bias = _BIAS if size == 1 else size
        # A table of which some rows are looked up lies in memory as a whole.
        sizes = ((prod(view.shape) if view.dense else view.elements, len(view.shape)) for view in self.weights)
        return sum(count * (bias if axes == 1 else size) for count, axes in sizes) + self.folded_biases * bias

    @property
    def read_elements(self) -> int:
        """Elements read that other launches have written, or that are the network's inputs."""
        return _elements(self.reads)

    @property
    def written_elements(self) -> int:
        """Elements written that other launches read, or that are returned."""
        return _elements(self.writes)

    @property
    def elements(self) -> int:
        """Elements read and written, weights among them."""
        return self.weight_elements + self.read_elements + self.written_elements

    @property
    def product(self) -> Optional[OperatorCall]:
        """The call that multiplies, if there is one."""
        return next((step for step in self.steps if step.geometry is not None), None)


def _elements(operands: Iterable[View]) -> int:
    return sum(operand.elements for operand in operands)


class _Arena:
    """Where values lie on a device, and how far the places have ever reached.

    Runtimes plan it before they run: each launch's results are put at the lowest place that is free for as long as
    somebody will read them. That leaves gaps, so the arena is larger than what is alive at once; with channels filled
    up as the NPU stores them it is what rknn-toolkit2 reports for an RK3588, to the byte (tests/deploy/graphs).
    """

    def __init__(self) -> None:
        self.places: Dict[Hashable, Tuple[int, int]] = {}  # from, to
        self.bytes, self.at = 0, ""

    def put(self, value: Hashable, length: int, path: str) -> None:
        """Put a value at the lowest place that is free and large enough."""
        if value in self.places:
            return
        start = 0
        for begin, end in sorted(self.places.values()):
            if begin - start >= length:
                break
            start = max(start, end)
        self.places[value] = start, start + length
        if start + length > self.bytes:
            self.bytes, self.at = start + length, path


def _stored(view: View, unit: int) -> int:
    """The elements of a tensor as it lies in memory, its channels in whole numbers of ``unit``."""
    shape = list(view.shape)
    if len(shape) == 4:
        shape[1] = in_blocks(shape[1], unit)
    return prod(shape)


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of the activations' arena and of the weights; at: the module whose launch needs most of the former."""

    arena_bytes: int
    weight_bytes: int
    at: str


@dataclass(repr=False)
class Deployed(Answer):
    """A network as a runtime executes it; flow: what ran, call by call.

    decode: whether a detector's predictions are decoded, usual: because the runtime's users do it so; merged: steps of
    parallel branches that are in others now, as an export makes it of RepVGG's and RepConv's blocks.
    """

    runtime: Runtime
    launches: List[Launch]
    flow: Recording
    decode: bool = True
    usual: bool = False
    merged: List[OperatorCall] = field(default_factory=list)

    def under(self, runtime: Runtime, precision: str) -> "Deployed":
        """The same network under a runtime in a precision; under autocast it is another run."""
        counted = self.flow.under(precision == "amp")
        if runtime is self.runtime and counted is self.flow:
            return self
        return as_deployed(counted, runtime, None if self.usual else self.decode)

    @property
    def input_shape(self) -> Tuple[int, ...]:
        """The shape of the first input that somebody reads."""
        inputs = (o.shape for step in self.flow.steps for o in step.reads if o.value in self.flow.inputs)
        return tuple(next(inputs, ()))

    @property
    def batch(self) -> int:
        """How many images a pass is of."""
        return self.input_shape[0] if self.input_shape else 1

    def memory(self, precision: Optional[str] = None) -> DeviceMemory:
        """The memory that it takes in a precision of its runtime, the usual one without."""
        size = BYTES.get(self.runtime.precision(precision), BYTES["float16"])
        whole, arena, launches = self._whole(), _Arena(), list(enumerate(self.launches))
        last: Dict[int, int] = {}  # the launch after which a value is not needed; what is returned is to the end
        if self.runtime.eager:  # which computes what nobody reads, too
            last.update((v.value, i) for i, one in launches for v in one.writes if v.value not in self.flow.outputs)
        last.update((view.value, i) for i, one in launches for view in one.reads)
        for _, one in launches:
            for view in one.reads:
                if view.value in self.flow.inputs:
                    arena.put(view.value, _stored(view, 1) * size, "")
        for i, one in launches:
            lengths = [(v.value, _stored(whole.get(v.value, v), self._unit_of(one))) for v in one.writes]
            for value, length in lengths:
                arena.put(value, length * size, one.layers[0])
            for value, length in lengths if self.runtime.returns_beside else ():
                if value not in last:
                    arena.put(("returned", value), length * self.runtime.returns_beside, one.layers[0])
            for view in (*one.reads, *one.writes):
                if last.get(view.value, len(launches)) <= i:
                    arena.places.pop(view.value, None)
        return DeviceMemory(arena.bytes, sum(launch.weight_bytes(size) for launch in self.launches), arena.at)

    def _whole(self) -> Dict[int, View]:
        """The values of which a part was written over, as they lie in memory: all of them."""
        made: Dict[int, View] = {}
        found: Dict[int, View] = {}
        for launch in self.launches:
            for step in launch.steps:
                for view in step.writes:
                    before = found.get(step.after, made.get(step.after)) if step.after is not None else None
                    if before is not None:
                        found[view.value] = before._replace(value=view.value)
                    made[view.value] = view
        return found

    def _unit_of(self, launch: Launch) -> int:
        """The step in which the channels of what a launch writes lie in memory; of matrices there are none."""
        if launch.product is not None and "conv" in launch.product.name:
            return self.runtime.stored_channels[0]
        return 1 if launch.product is not None or "softmax" in launch.operators[0] else self.runtime.stored_channels[1]

    arena_bytes = property(lambda self: self.memory().arena_bytes)
    weight_bytes = property(lambda self: self.memory().weight_bytes)

    def _sum(self, name: str) -> int:
        return sum(getattr(launch, name) for launch in self.launches)

    flops = property(lambda self: self._sum("flops"))
    weight_elements = property(lambda self: self._sum("weight_elements"))
    read_elements = property(lambda self: self._sum("read_elements"))
    written_elements = property(lambda self: self._sum("written_elements"))


def deployed(
    model: nn.Module,
    inputs: Union[Sequence[Any], Tensor],
    runtime: str = "tensorrt",
    decode: Optional[bool] = None,
    kwargs: Optional[Dict[str, Any]] = None,
) -> Deployed:
    """Run ``model`` without values and return what ``runtime`` would launch for it.

    Args:
        model: any module; it is not touched, a copy of it is run.
        inputs: the positional arguments of its forward, or the only one if it is a tensor.
        runtime: a name in runtimes.yaml, "tensorrt", "rknn", "ncnn", "openvino" ...; "pytorch" fuses nothing.
        decode: False ends a detector's heads at their last convolutions; by default as the runtime's users do it.
        kwargs: the keyword arguments of its forward.

    Raises DeviceError for an unknown runtime, and what ``traffic`` raises.
    """
    found = find_runtime(runtime)
    return as_deployed(record(as_model(model, "deployed"), as_inputs(inputs, "deployed"), kwargs=kwargs), found, decode)


@collector_paused()
def as_deployed(counted: Recording, runtime: Runtime, decode: Optional[bool] = None) -> Deployed:
    """Make the launches of a run that has been counted."""
    usual, decode = decode is None, runtime.decode if decode is None else decode
    steps, merged = (counted.steps, []) if runtime.eager else merge_branches(counted.steps, counted.outputs)
    program = executed(counted, steps, runtime, decode)
    if not runtime.eager:
        program = rewritten(program, runtime, paths_of(counted, runtime.fuses_modules))
    groups = [[unit] for unit in program.units] if runtime.eager else fused(program, runtime)
    if runtime.slices != FREE:
        program, groups = copy_slices(program, groups, together=runtime.slices == ONCE)
    launches = Rows(_launch(group, program, runtime) for group in groups if not _is_free(group))
    return Deployed(runtime, launches, counted, decode, usual, merged)


def _is_free(group: Sequence[Unit]) -> bool:
    first = group[0].steps[0]
    return len(group) == len(group[0].steps) == 1 and not (first.bytes or first.flops)


def _launch(group: Sequence[Unit], program: Executed, runtime: Runtime) -> Launch:
    """Sum up what a launch reads and writes."""
    steps = [step for unit in group for step in unit.steps]
    launch, inside = Launch(steps), {operand.value for step in steps for operand in step.writes}
    launch.leaves = _leaves(steps, runtime.leaves)
    reads: Dict[Tuple[int, Any], View] = {}
    weights: Dict[Tuple[int, Any], View] = {}
    for unit in group:
        for step in unit.steps:
            folded = unit.folded and step.name in BATCH_NORMS
            if folded and not any(len(operand.shape) == 1 for operand in weights.values()):
                launch.folded_biases = unit.folded
            for operand in step.reads:
                if operand.value not in program.varying:
                    if not folded:
                        weights.setdefault((operand.value, operand.region), operand)
                elif operand.value not in inside:
                    reads.setdefault((operand.value, operand.region), operand)
    readers = Counter(value for unit in group for value in unit.needs)
    for step in steps:
        for operand in step.writes:
            all_readers = len(program.readers.get(operand.value, ()))
            elsewhere = all_readers > readers[operand.value] or (program.all_counts and not all_readers)
            if runtime.eager or operand.value in program.outputs or elsewhere:
                launch.writes.append(operand)
                launch.returned += operand.elements if operand.value in program.outputs else 0
    launch.reads, launch.weights = list(reads.values()), list(weights.values())
    return launch


def _leaves(steps: Sequence[OperatorCall], reasons: Mapping[str, str]) -> Optional[Tuple[str, str, str]]:
    """Return the first operator that has a reason to go back to the CPU, with its module and that reason."""
    for step in steps if reasons else ():
        name = step.facts.operator.strip("_")
        if name in reasons:
            return name, step.path, reasons[name]
    return None


# ---- what is computed in vain, or not at all: auxiliary heads, which only training needs ----


def left_out(network: Deployed) -> Dict[str, int]:
    """Name the outermost modules whose products ran, and that the runtime does without, with their FLOPs.

    Nothing that an export gives out needs them. A head that is cut before it decodes is not among them.
    """
    executed = {step.number for launch in network.launches for step in launch.steps}
    executed |= {step.number for step in network.merged}
    steps = [step for step in network.flow.steps if step.flops]
    kept = {prefix for step in steps if step.number in executed for prefix in above(step.path)}
    found: Dict[str, int] = {}
    for step in steps:
        outermost = next((prefix for prefix in above(step.path) if prefix not in kept), None)
        if step.number not in executed and outermost and not is_inside(step.path, network.flow.averages):
            found[outermost] = found.get(outermost, 0) + step.flops
    return found


def two_predictions(network: Deployed) -> Optional[Tuple[str, int, int]]:
    """Find a detector that gives out two sets of predictions of one shape, as with a head for training alone.

    Returns its path, and the FLOPs that it would save to do without the first or the second; None where there are none.
    """
    flow = network.flow
    steps = [step for launch in network.launches for step in launch.steps]
    by_shape: Dict[Tuple[int, ...], List[OperatorCall]] = {}
    for step in steps:
        for operand in step.writes:
            if operand.value in flow.outputs and len(operand.shape) == 3 and is_inside(step.path, flow.heads):
                by_shape.setdefault(tuple(operand.shape), []).append(step)
    pair = next((found for found in by_shape.values() if len(found) == 2), None)
    if pair is None:
        return None
    total = sum(step.flops for step in steps)
    needed = [asked_for(steps, {operand.value for operand in one.writes}) for one in pair]
    first, second = (total - sum(step.flops for step in kept) for kept in needed)
    return pair[0].path, second, first
