"""The recording of a run: every call of an operator, in order, with the tensors that it read and wrote as views.

Layer totals listen beside the recorder, as they must be asked at the call, and so does what is alive, which can't be
told afterwards. All else is read from the recording by plain functions: bytes, launches, phases.
"""

import sys
import weakref
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn

from ..run import (
    STORAGES_TELL,
    ModelCopy,
    NotCountable,
    Observer,
    WeakStorage,
    collector_paused,
    element_size,
    in_few_words,
    instances_in,
    is_of_a_signal,
    map_tensors,
    run,
    storage_of,
    tensors_in,
)
from .bytes import made_like, stored_bytes
from .calls import FORWARD, LayerRow, OperatorCall, View, geometry_of
from .facts import OperatorFacts, facts_of
from .flops import PRODUCTS, PRODUCTS_IN_DISGUISE
from .layer_rules import CustomOps
from .layers import LayerCounts, Layers
from .places import Layer

# ---- storages ----

# A *value* is what a storage holds between two writes to it. Views share their storage's value; an operator that writes
# in place makes a new one. So a chain of calls is known as a chain whatever views lie between its links.
PlaceOfPhase = Tuple[str, str]
"""A phase of a run and a module's path."""


def in_blocks(size: int, block: int) -> int:
    """A size as an allocator hands it out: rounded up to whole blocks."""
    return -(-size // block) * block


class Held:
    """What is known of one storage; size: 0 unless its life is watched; born: where it came to be."""

    __slots__ = ("born", "reference", "size", "value")

    def __init__(self, value: int, reference: WeakStorage) -> None:
        self.value, self.reference = value, reference
        self.size = 0
        self.born: PlaceOfPhase = ("", "")


class Storages:
    """The storages of one run.

    place: what the run is at; alive: bytes of all that are, peak: the most that it was, reached at peak_place.
    """

    def __init__(self, block: int = 1) -> None:
        self.block = block
        self.held: Dict[int, Held] = {}
        self.fresh = count(1)  # of values
        self.place: PlaceOfPhase = ("", "")
        self.peak_place: PlaceOfPhase = ("", "")
        self.alive = self.peak = 0

    def of(self, tensor: Tensor) -> Held:
        """Return what is known of a tensor's storage."""
        storage = storage_of(tensor)
        key = storage._cdata
        held = self.held.get(key)
        if held is not None and not STORAGES_TELL and held.reference.expired():
            self._forget(key)
            held = None
        if held is None:
            held = self.held[key] = Held(next(self.fresh), WeakStorage(storage, self._forget))
        return held

    def _forget(self, key: int) -> None:
        held = self.held.pop(key, None)
        if held is not None:
            self.alive -= held.size

    def written(self, tensor: Tensor) -> Held:
        """A tensor's storage has been written to: it holds a new value."""
        held = self.of(tensor)
        held.value = next(self.fresh)
        return held

    def made(self, tensor: Tensor) -> None:
        """A tensor has come to be: its storage is alive, and counts until it is gone."""
        if tensor.layout is not torch.strided or not tensor.numel():
            return
        held = self.of(tensor)
        if held.size:
            return
        held.size, held.born = in_blocks(storage_of(tensor).nbytes(), self.block), self.place
        self.alive += held.size
        if self.alive > self.peak:
            self._bury()
            if self.alive > self.peak:
                self.peak, self.peak_place = self.alive, self.place

    def restart(self) -> Tuple[int, PlaceOfPhase]:
        """Return the peak and where it was, and seek another one from here on."""
        found = self.peak, self.peak_place
        self._bury()
        self.peak, self.peak_place = self.alive, self.place
        return found

    def _bury(self) -> None:
        """Take off what is gone, where storages do not say so."""
        if not STORAGES_TELL:
            for key in [key for key, held in self.held.items() if held.reference.expired()]:
                self._forget(key)

    def born_in(self, phase: str) -> List[Tuple[str, int]]:
        """The sizes of what is alive and was made in a phase, each with the path that it was made at."""
        self._bury()
        return [(held.born[1], held.size) for held in self.held.values() if held.size and held.born[0] == phase]


# ---- the recorder ----


class Recorder(Observer):
    """Writes a run down, and lets the layer totals hear of it too; ``block``: what sizes are rounded up to."""

    def __init__(self, copied: ModelCopy, custom_ops: Optional[CustomOps] = None, block: int = 1) -> None:
        self.layers = layers = Layers(copied, custom_ops)
        self.enter: Any = layers.enter
        self.abandon: Any = layers.abandon
        self.leave: Any = layers.leave
        self.storages = Storages(block)
        self.rows: Dict[int, LayerRow] = {}  # by the place's identity
        self.calls: List[OperatorCall] = []
        self.uncounted: Dict[str, Tuple[int, str]] = {}
        self.indices: Optional[Tuple[OperatorCall, Held, int]] = None  # that the last pooling has made
        self.inputs: Set[int] = set()
        self.outputs: Set[int] = set()
        self.predictions: Set[int] = set()
        self.hands_values_out = self.untraced = False
        self.phase = FORWARD

    def begin(self, arguments: Any) -> None:
        for tensor in tensors_in(arguments):
            self.storages.made(tensor)
        self.inputs = self._values_of(arguments)

    def operator(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        layers = self.layers
        if not layers.asking_a_rule:
            layers.operator(func, args, kwargs, out)
            self.note(layers.current, facts_of(func), args, kwargs, out)

    def taken_apart(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        self.layers.taken_apart(func, args, kwargs, out)
        if func._schema.name in PRODUCTS_IN_DISGUISE and not self.layers.asking_a_rule and self.calls:
            call = self.calls[-1]
            call.flops += 2 * PRODUCTS[func._schema.name].formula(args, kwargs, out)
            call.dtype = tensors_in(args)[0].dtype

    def hands_out(self, what: str) -> None:
        self.layers.hands_out(what)
        self.hands_values_out = True

    def end(self, output: Any) -> None:
        self.settle()
        self.layers.end(output)
        returned = self._values_of(output)
        self.outputs |= returned
        self.predictions = self._values_of(_outside_lists(output))
        is_read = any(view.value in self.inputs for call in self.calls for view in call.reads)
        self.untraced = not (returned and is_read) or (self.hands_values_out and _holds_values(output))
        self.storages.held = {}  # which need not say any more that they are gone

    # ---- one call ----

    def note(self, place: Layer, facts: OperatorFacts, args: Sequence[Any], kwargs: Dict[str, Any], out: Any) -> None:
        """Write a call down, of an operator that the module of a place has run."""
        if self.indices is not None:
            self.settle()
        if not facts.has_row:  # memory that is only reserved
            if not isinstance(out, Tensor) or facts.makes_memory:
                self.alive(out)
            return
        row = self.rows.get(id(place))
        if row is None:
            row = self.rows[id(place)] = LayerRow("", path=place.path)
        call = OperatorCall(row, facts, facts.operator, phase=self.phase, number=len(self.calls))
        self.calls.append(call)
        if facts.is_view:
            return
        try:
            self._note_operands(call, args, kwargs, out)
            if facts.charge is not None:
                self._charge(call, *facts.charge(args, kwargs, out))
            if facts.product is not None:
                call.flops, call.dtype = 2 * facts.product.formula(args, kwargs, out), tensors_in(args)[0].dtype
                call.geometry = None if "backward" in facts.name or not call.flops else geometry_of(call, args)
        except Exception as error:
            if is_of_a_signal(error):
                raise
            self._assume(f"{facts.name} in {place.path or 'the model itself'}", f"not charged: {in_few_words(error)}")
            return
        if facts.makes_memory:
            self.alive(out)
        if facts.makes_indices:
            self.indices = call, self.storages.of(out[1]), call.writes[1].bytes
            call.padded_window = tuple(args[1]) if len(args) > 3 and any(args[3]) else ()
        if facts.assumption:
            self._assume(facts.name, facts.assumption)

    def _note_operands(self, call: OperatorCall, args: Sequence[Any], kwargs: Dict[str, Any], out: Any) -> None:
        """Note what a call has read, what it has written, and the bytes of both."""
        facts, effects, storages = call.facts, call.facts.effects, self.storages
        if facts.name == "aten::_local_scalar_dense":  # somebody decides by it
            self.hands_values_out = True
            self.outputs |= self._values_of(args)
        given = args[1:] if facts.writes_over else args
        if kwargs:
            given = (*given, *(value for name, value in kwargs.items() if name not in effects.write_only))
        reads = [self._view(tensor, storages.of) for tensor in tensors_in(given)]
        call.reads = reads if len(reads) == 1 else _distinct(reads)
        made = [out] if isinstance(out, Tensor) else _new_results(facts, out)
        if effects.written:
            written = tensors_in([args[i] if i < len(args) else kwargs.get(name) for i, name in effects.written])
            call.after = next((storages.of(t).value for t in written if not _fills_storage(t)), None)
            made = [*made, *written] if facts.makes_memory else written
        call.writes = [self._view(t, storages.written) for i, t in enumerate(made) if not i or t.numel()]
        call.read_bytes = sum([view.bytes for view in call.reads])
        call.written_bytes = sum([view.bytes for view in call.writes])

    def _view(self, tensor: Tensor, hold: Any) -> View:
        shape, dtype = tensor.shape, tensor.dtype
        if tensor.layout is not torch.strided:  # a sparse one: its parts have storages
            moved = stored_bytes(tensor)
            return View(-id(tensor), 0, shape, None, dtype, moved // element_size(dtype), moved)
        value: int = hold(tensor).value
        offset: Any = tensor.storage_offset()
        if tensor.is_contiguous():
            elements = tensor.numel()
            return View(value, offset, shape, None, dtype, elements, elements * element_size(dtype))
        moved = stored_bytes(tensor)
        return View(value, offset, shape, tensor.stride(), dtype, moved // element_size(dtype), moved)

    @staticmethod
    def _charge(call: OperatorCall, read: int, written: int) -> None:
        """Charge an operator for other bytes than its operands have: of a table only the rows that are looked up.

        What gives its shape alone, as in ``x.new_zeros(4, 4)``, is not read, and the result does not depend on it.
        """
        call.read_bytes, call.written_bytes = read, written
        if call.facts.charge is made_like and not call.facts.effects.random:
            call.reads = ()
        if call.reads:
            first, *others = call.reads
            call.reads = [first.moving(max(read - sum(view.bytes for view in others), 0)), *others]
        if call.writes:
            first, *others = call.writes
            call.writes = [first.moving(written), *(view.moving(0) for view in others)]

    def alive(self, out: Any) -> None:
        """What an operator has made is alive until it is gone."""
        for tensor in (out,) if isinstance(out, Tensor) else tensors_in((out,)):
            self.storages.made(tensor)

    def settle(self) -> None:
        """Take the last pooling's indices off again if nobody has kept them.

        ATen's max pooling always makes them, eight bytes for each maximum; a layer that was not asked to return them
        drops them at once, and no deployed kernel writes them.
        """
        if self.indices is not None:
            call, held, size = self.indices
            if held.reference.expired():
                call.written_bytes -= size
            self.indices = None

    def _assume(self, name: str, what: str) -> None:
        """Say in the result that something has no exact number."""
        self.uncounted[name] = self.uncounted.get(name, (0, ""))[0] + 1, what

    def _values_of(self, nested: Any) -> Set[int]:
        return {self.storages.of(tensor).value for tensor in tensors_in((nested,)) if tensor.layout is torch.strided}


def _new_results(facts: OperatorFacts, out: Any) -> List[Tensor]:
    """Return the results of an operator that are not what it was given."""
    new = facts.effects.new_results
    results: Any = out if isinstance(out, (tuple, list)) else (out,)
    if len(new) == len(results):
        results = [result for result, is_new in zip(results, new) if is_new]
    elif not all(new):
        results = []
    return tensors_in(results)


def _distinct(views: List[View]) -> List[View]:
    """The same part of a value that is passed twice is read once."""
    if len({view.value for view in views}) == len(views):
        return views
    return list({view[:5]: view for view in views}.values())


def _fills_storage(tensor: Tensor) -> bool:
    return tensor.layout is not torch.strided or stored_bytes(tensor) >= storage_of(tensor).nbytes()


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


# ---- the recording ----


class Subject:
    """What a recording is of: a model that it does not keep, and inputs of which it keeps the shapes."""

    def __init__(self, model: nn.Module, inputs: Tuple[Any, ...], kwargs: Optional[Dict[str, Any]]) -> None:
        self.reference = weakref.ref(model)
        self.inputs, self.kwargs = map_tensors((inputs, dict(kwargs or {})), lambda t: t.detach().to("meta"))

    @property
    def model(self) -> nn.Module:
        """The model; raises NotCountable where nobody has kept it, and it would have to be run again."""
        model = self.reference()
        if model is None:
            raise NotCountable("the model is gone: keep it in a variable to ask for more than what was recorded of it")
        return model


@dataclass
class Recording:
    """What was written down of a run, and how it went.

    layers: their totals; rows: one for each place that has run an operator, by its identity, without sums yet; calls:
    in their order; steps: those that make no view. A value that no step writes and that is no input is a constant: a
    parameter, a buffer, or a number of the code. inputs, outputs: values that come from outside and that were returned;
    predictions: those outputs that stand in no list or dictionary, in which detectors return their maps for the loss;
    untraced: results have left PyTorch as numbers, arrays or by some other way than the return: all of it counts.
    heads, averages: paths of a detector's modules that decode its maps, and of those that average with fixed weights.
    peak_activation_bytes: the largest sum of tensors alive at once, parameters and buffers not among them.
    """

    layers: LayerCounts = field(repr=False)
    rows: Dict[int, LayerRow] = field(repr=False)
    calls: List[OperatorCall] = field(repr=False)
    uncounted: Dict[str, Tuple[int, str]]
    inputs: Set[int]
    outputs: Set[int]
    predictions: Set[int]
    untraced: bool
    peak_activation_bytes: int
    amp: bool
    heads: List[str]
    averages: List[str]
    subject: Subject
    others: Dict[bool, Optional["Recording"]] = field(default_factory=dict, repr=False)
    steps: List[OperatorCall] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.steps = [call for call in self.calls if not call.facts.is_view]

    @property
    def flops(self) -> int:
        """Floating-point operations of matrix products, convolutions and attention."""
        return sum(call.flops for call in self.calls)

    def under(self, amp: bool) -> "Recording":
        """This recording, or one of the same run under autocast, as far as that can be counted, or without."""
        if amp == self.amp:
            return self
        if amp not in self.others:
            subject = self.subject
            try:
                self.others[amp] = _record(subject.model, subject.inputs, None, subject.kwargs, amp)
            except NotCountable:
                self.subject.model  # noqa: B018 - it says so where the model is gone
                self.others[amp] = None
        return self.others[amp] or self


def record(
    model: nn.Module,
    inputs: Tuple[Any, ...],
    custom_ops: Optional[CustomOps] = None,
    kwargs: Optional[Dict[str, Any]] = None,
    amp: bool = False,
    on_shapes: bool = True,
) -> Recording:
    """Run ``model`` once without values, in evaluation mode, and write down what it does.

    Without ``on_shapes`` it is run for real. With ``amp``, as on CUDA under autocast to float16; where that depends on
    values, or this torch can't, the run is the plain one, and the recording's ``amp`` is False. It does not keep the
    model. Raises what ``run`` raises.
    """
    if amp:
        try:
            return _record(model, inputs, custom_ops, kwargs, True)
        except NotCountable:
            pass
    return _record(model, inputs, custom_ops, kwargs, False, on_shapes)


def parts_of_detectors(model: nn.Module) -> Tuple[List[str], List[str]]:
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
def _record(
    model: nn.Module,
    inputs: Tuple[Any, ...],
    custom_ops: Optional[CustomOps],
    kwargs: Optional[Dict[str, Any]],
    amp: bool,
    on_shapes: bool = True,
) -> Recording:
    outcome = run(model, inputs, partial(Recorder, custom_ops=custom_ops), on_shapes, kwargs, amp)
    recorder: Recorder = outcome.observer
    return Recording(
        recorder.layers.counts(outcome),
        recorder.rows,
        recorder.calls,
        recorder.uncounted,
        recorder.inputs,
        recorder.outputs,
        recorder.predictions,
        recorder.untraced,
        recorder.storages.peak,
        amp,
        *parts_of_detectors(model),
        Subject(model, inputs, kwargs),
    )
