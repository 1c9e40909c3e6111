"""The data flow of the operator ledger: which call wrote what another reads.

A *value* is what a storage holds between two writes to it. Views share their storage's value; an operator that writes
in place makes a new one. So a chain of calls is known as a chain whatever views lie between its links.
"""

import sys
import weakref
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import torch
from torch import Tensor, nn

from .charges import SPECIAL_CASES, stored_bytes
from .products import kind_of
from .profile import CustomOps
from .run import (
    HAS_STORAGE,
    NotCountable,
    Replica,
    Run,
    WeakStorage,
    as_inputs,
    as_model,
    collector_paused,
    effects_of,
    instances_in,
    map_tensors,
    run,
    storage_of,
    tensors_in,
)
from .traffic import OperatorCall, Traffic, TrafficLedger

WRITES_OVER = frozenset(("aten::copy_", "aten::fill_", "aten::zero_", "aten::normal_", "aten::uniform_"))


class Operand(NamedTuple):
    """A tensor that a call reads or writes.

    value: which one it holds, or a part of; region: which part, by offset, shape and, unless dense, strides; elements:
    how many are moved; dense: whether it lies in memory in the order of its shape.
    """

    value: int
    region: Tuple[Any, ...]
    elements: int
    dtype: torch.dtype
    shape: Tuple[int, ...]
    dense: bool = True

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return itemsize(self.dtype)

    @property
    def channels_last(self) -> bool:
        """Whether an image's channels lie next to each other."""
        return len(self.shape) == 4 and not self.dense and self.region[2][1] == 1


@lru_cache(maxsize=None)
def itemsize(dtype: torch.dtype) -> int:
    """Bytes of an element."""
    return torch.empty((), dtype=dtype, device="meta").element_size()


class Geometry(NamedTuple):
    """The form of a product: rows x inner by inner x columns, in ``groups``; kernel: a convolution's window."""

    rows: int
    inner: int
    columns: int
    groups: int = 1
    kernel: Tuple[int, ...] = ()
    stride: Tuple[int, ...] = ()
    transposed: bool = False

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved by itself."""
        return self.groups > 1 and self.groups == self.columns


@dataclass
class Step:
    """One call of an operator that is no view, with its operands; kind: as ``products.kind_of`` names it.

    after: a value that is written over in part, or whose rest is kept: no element of it is read.
    """

    call: OperatorCall
    name: str
    kind: str
    path: str
    reads: List[Operand] = field(default_factory=list, repr=False)
    writes: List[Operand] = field(default_factory=list, repr=False)
    geometry: Optional[Geometry] = field(default=None, repr=False)
    after: Optional[int] = None


@dataclass
class Flow:
    """The steps of a run in their order; inputs, outputs: values that come from outside and that were returned.

    A value that no step writes and that is no input is a constant: a parameter, a buffer, or a number of the code.
    predictions: those outputs that stand in no list or dictionary, in which detectors return their maps for the loss.
    untraced: results have left PyTorch, as numbers or arrays or by some other way than the return: all of it counts.
    traffic: what the operator ledger has counted in the same run. heads, averages: paths of a detector's modules that
    decode its maps, and of those in them that average with fixed weights. amp: whether it ran under autocast; recount:
    counts the same model so or so; None where that depends on values.
    """

    steps: List[Step] = field(repr=False)
    inputs: Set[int]
    outputs: Set[int]
    predictions: Set[int]
    traffic: Traffic = field(repr=False)
    heads: List[str]
    averages: List[str]
    amp: bool
    untraced: bool
    recount: Callable[[bool], Optional["Flow"]] = field(repr=False)

    def under(self, amp: bool) -> "Flow":
        """This run, or the same one under autocast, as far as that can be counted, or without."""
        return self if amp == self.amp else self.recount(amp) or self


class _Values:
    """Numbers what storages hold."""

    def __init__(self) -> None:
        self.known: Dict[int, Tuple[WeakStorage, int]] = {}
        self.count = 0

    def of(self, tensor: Tensor, new: bool = False) -> int:
        """The value that a tensor holds, or a part of; ``new``: one that its storage has from now on."""
        storage = storage_of(tensor)
        key = storage._cdata
        known = self.known.get(key)
        if known is not None and not HAS_STORAGE and known[0].expired():
            known = None  # before torch 2.0 an address may be another's by now; since, a reference keeps it
        if known is not None and not new:
            return known[1]
        self.count += 1
        self.known[key] = WeakStorage(storage) if known is None else known[0], self.count
        return self.count


class _Traits(NamedTuple):
    """What all calls of an operator have in common."""

    name: str
    kind: str
    is_view: bool
    makes_new: bool
    written: Tuple[Tuple[int, str], ...]
    write_only: Tuple[str, ...]
    writes_over: bool
    is_special: bool


def _traits(func: Any) -> _Traits:
    effects, name = effects_of(func), func._schema.name
    return _Traits(
        name=name,
        kind=kind_of(func),
        is_view=effects.is_view or effects.is_plain_view,
        makes_new=any(effects.new_results),
        written=effects.written,
        write_only=effects.write_only,
        writes_over=name in WRITES_OVER,
        is_special=name in SPECIAL_CASES,
    )


class FlowLedger(TrafficLedger):
    """The operator ledger, which notes the operands of each call besides."""

    def __init__(self, replica: Replica, custom_ops: Optional[CustomOps] = None) -> None:
        super().__init__(replica, custom_ops)
        self.values = _Values()
        self.steps: List[Step] = []
        self.traits: Dict[int, _Traits] = {}  # by the operator's identity: operators hash in Python
        self.inputs: Set[int] = set()
        self.outputs: Set[int] = set()
        self.predictions: Set[int] = set()
        self.hands_values_out = self.untraced = False

    def begin(self, arguments: Any) -> None:
        super().begin(arguments)
        self.inputs = self._values_of(arguments)

    def hands_out(self, what: str) -> None:
        super().hands_out(what)
        self.hands_values_out = True

    def end(self, output: Any) -> None:
        super().end(output)
        returned = self._values_of(output)
        self.outputs |= returned
        self.predictions = self._values_of(_outside_lists(output))
        is_read = any(operand.value in self.inputs for step in self.steps for operand in step.reads)
        self.untraced = not (returned and is_read) or (self.hands_values_out and _holds_values(output))

    def _values_of(self, nested: Any) -> Set[int]:
        return {self.values.of(tensor) for tensor in tensors_in((nested,)) if tensor.layout is torch.strided}

    def _move(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        made = len(self.calls_made)
        super()._move(func, args, kwargs, out)
        if len(self.calls_made) == made:  # memory that is only reserved
            return
        traits = self.traits.get(id(func))
        if traits is None:
            traits = self.traits[id(func)] = _traits(func)
        if traits.is_view:
            return
        call = self.calls_made[-1]
        if traits.name == "aten::_local_scalar_dense":  # somebody decides by it
            self.hands_values_out = True
            self.outputs |= self._values_of(args)
        step = Step(call, traits.name, traits.kind, self.current.path)
        given = tensors_in((*args, *kwargs.values()) if kwargs else args)
        made_values = [] if not traits.makes_new else [out] if isinstance(out, Tensor) else tensors_in((out,))
        if traits.written:
            written = tensors_in([args[i] if i < len(args) else kwargs.get(key) for i, key in traits.written])
            unread = {id(tensor) for tensor in written if traits.writes_over}
            unread.update(id(kwargs.get(key)) for key in traits.write_only)
            given = [tensor for tensor in given if id(tensor) not in unread]
            step.after = next((self.values.of(t) for t in written if not _fills_storage(t)), None)
            made_values = made_values + written
        step.reads = _distinct([self._operand(tensor) for tensor in given])
        step.writes = [self._operand(t, new=True) for i, t in enumerate(made_values) if not i or t.numel()]
        if traits.is_special:
            _as_charged(step)
        step.geometry = _geometry(step, args) if call.flops else None
        self.steps.append(step)

    def _operand(self, tensor: Tensor, new: bool = False) -> Operand:
        shape, dtype = tensor.shape, tensor.dtype
        if tensor.layout is not torch.strided:  # a sparse one: its parts have storages
            return Operand(0, (), stored_bytes(tensor) // itemsize(dtype), dtype, shape)
        dense = tensor.is_contiguous()
        elements = tensor.numel() if dense else stored_bytes(tensor) // itemsize(dtype)
        region = (tensor.storage_offset(), shape) if dense else (tensor.storage_offset(), shape, tensor.stride())
        return Operand(self.values.of(tensor, new), region, elements, dtype, shape, dense)

    def flow(self, outcome: Run, model: nn.Module, amp: bool, recount: Callable[[bool], Optional[Flow]]) -> Flow:
        """Put the steps together, once the run is over."""
        values = self.inputs, self.outputs, self.predictions
        return Flow(self.steps, *values, self.result(outcome), *_of_detectors(model), amp, self.untraced, recount)


def _holds_values(output: Any) -> bool:
    """Say whether numbers or arrays are among what a model returns."""
    numpy: Any = sys.modules.get("numpy")
    arrays = () if numpy is None else (numpy.ndarray, numpy.generic)
    return bool(instances_in(output, (int, float, complex, *arrays)))


def _outside_lists(value: Any) -> List[Any]:
    """Return the parts of a nested value that stand in no list and no dictionary."""
    if isinstance(value, (list, dict)):
        return []
    if isinstance(value, tuple):
        return [part for each in value for part in _outside_lists(each)]
    return [value]


def _fills_storage(tensor: Tensor) -> bool:
    return stored_bytes(tensor) >= storage_of(tensor).nbytes()


def _distinct(operands: List[Operand]) -> List[Operand]:
    """The same part of a value that is passed twice is read once."""
    if len({operand.value for operand in operands}) == len(operands):
        return operands
    return list({(operand.value, operand.region): operand for operand in operands}.values())


def _as_charged(step: Step) -> None:
    """Give the first operands what the operator is charged for: of a table only the rows that are looked up."""
    call = step.call
    if step.reads:
        first, rest = step.reads[0], sum(operand.elements * operand.itemsize for operand in step.reads[1:])
        step.reads[0] = first._replace(elements=max(call.read_bytes - rest, 0) // first.itemsize)
    if step.writes:
        first, *others = step.writes
        step.writes = [first._replace(elements=call.written_bytes // first.itemsize)]
        step.writes += [operand._replace(elements=0) for operand in others]


def _geometry(step: Step, args: Tuple[Any, ...]) -> Optional[Geometry]:
    """Read a product's form off its operands; rows are what its FLOPs leave for them."""
    tensors = [tensor for tensor in args if isinstance(tensor, Tensor)]
    if len(tensors) < 2:
        return None
    if "conv" not in step.name:
        left, right = tensors[-2:] if "add" in step.name else tensors[:2]
        if "attention" in step.name:
            inner, columns = left.shape[-1] + tensors[2].shape[-1], right.shape[-2]
        else:
            inner, columns = left.shape[-1], right.shape[-1]
        return Geometry(step.call.flops // max(2 * inner * columns, 1), inner, columns)
    weight = tensors[1]
    transposed = len(args) > 6 and args[6] is True
    groups = next((int(arg) for arg in args[8:9]), 1)
    window = tuple(weight.shape[2:])
    columns = weight.shape[1] * groups if transposed else weight.shape[0]
    inner = prod(weight.shape[1:]) if not transposed else weight.shape[0] // groups * prod(window)
    rows = step.call.flops // max(2 * prod(weight.shape[1:]) * weight.shape[0], 1)
    stride = tuple(args[3]) if len(args) > 3 and isinstance(args[3], (list, tuple)) else ()
    return Geometry(rows, inner, columns, groups, window, stride, transposed)


def _of_detectors(model: nn.Module) -> Tuple[List[str], List[str]]:
    """Name the modules that decode a detector's maps, and those that average over a distribution of distances.

    The former know classes, levels and strides; the latter have a convolution, which is part of decoding.
    """
    heads, averages = [], []
    for path, module in model.named_modules():
        if "nl" in module.__dict__ and hasattr(module, "nc") and hasattr(module, "stride"):
            heads.append(path)
        elif type(module).__name__ == "DFL":
            averages.append(path)
    return heads, averages


@collector_paused()
def flow(
    model: nn.Module,
    inputs: Union[Sequence[Any], Tensor],
    kwargs: Optional[Dict[str, Any]] = None,
    amp: bool = False,
    asked_by: str = "flow",
) -> Flow:
    """Count one forward pass of ``model`` as ``traffic`` does, and note which call wrote what another reads.

    With ``amp``, as on CUDA under autocast to float16; where that depends on values, or this torch can't, the run is
    the plain one, and its ``amp`` is False. The result does not keep the model: ``under`` needs it, and says so where
    it is gone. ``asked_by`` is the function that errors speak of. Raises what ``traffic`` raises.
    """
    model, inputs = as_model(model, asked_by), as_inputs(inputs, asked_by)
    try:
        return _count(model, inputs, kwargs, amp)
    except NotCountable:
        if not amp:
            raise
    return _count(model, inputs, kwargs, False)


def _count(model: nn.Module, inputs: Tuple[Any, ...], kwargs: Optional[Dict[str, Any]], amp: bool) -> Flow:
    ledgers: List[FlowLedger] = []

    def observe(replica: Replica) -> FlowLedger:
        ledgers.append(FlowLedger(replica))
        return ledgers[-1]

    outcome = run(model, inputs, observe, kwargs=kwargs, amp=amp)
    return ledgers[-1].flow(outcome, model, amp, _recount(model, inputs, kwargs))


def _recount(
    model: nn.Module, inputs: Tuple[Any, ...], kwargs: Optional[Dict[str, Any]]
) -> Callable[[bool], Optional[Flow]]:
    """Return what counts a model once more, as long as somebody else keeps it; its inputs are known by their shapes."""
    reference = weakref.ref(model)
    blank_inputs, blank_kwargs = map_tensors((inputs, dict(kwargs or {})), lambda t: t.detach().to("meta"))

    def recount(amp: bool) -> Optional[Flow]:
        kept = reference()
        if kept is None:
            raise NotCountable("another precision takes the model once more, and it is gone: keep it in a variable")
        with collector_paused():
            try:
                return _count(kept, blank_inputs, blank_kwargs, amp)
            except NotCountable:
                return None

    return recount


__all__ = ["Flow", "Geometry", "Operand", "Step", "flow"]
