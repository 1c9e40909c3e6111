"""The operator ledger: the bytes that every operator of a model must move, read and written.

What a call moves is in ``charges.py``, what it multiplies in ``products.py``: two FLOPs a multiply-accumulate.
"""

import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import torch
from torch import Tensor, nn

from .answer import Answer, Rows
from .charges import (
    ASSUMED_ONCE,
    DATA_DEPENDENT,
    NO_FORMULA,
    POOLS_WITH_INDICES,
    SPECIAL_CASES,
    Moved,
    by_schema,
    reserved,
    stored_bytes,
)
from .products import PRODUCTS, PRODUCTS_IN_DISGUISE, Product, kind_of, product_of
from .profile import CustomOps, Layer, LayerLedger
from .run import (
    HAS_STORAGE,
    Replica,
    Run,
    WeakStorage,
    as_inputs,
    as_model,
    collector_paused,
    effects_of,
    in_few_words,
    run,
    storage_of,
    tensors_in,
)


@dataclass
class OperatorRow:
    """All calls of one ATen operator."""

    operator: str
    calls: int = 0
    flops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Bytes read and written together."""
        return self.read_bytes + self.written_bytes

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved; 0 where nothing is moved."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass
class LayerRow(OperatorRow):
    """All operators that ran while one module was the innermost one running."""

    path: str = ""
    type: str = ""
    output_shape: Tuple[int, ...] = ()
    parameters: int = 0
    total_ops: float = 0
    kernel: float = 0
    output: float = 0
    operators: Dict[str, OperatorRow] = field(default_factory=dict, repr=False)


@dataclass
class OperatorCall:
    """One call of an ATen operator, views among them; ``dtype`` is that of its operands where it has FLOPs."""

    layer: LayerRow = field(repr=False)
    operator: str
    flops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    dtype: Optional[torch.dtype] = None

    @property
    def bytes(self) -> int:
        """Bytes read and written together."""
        return self.read_bytes + self.written_bytes


@dataclass(repr=False)
class Traffic(Answer):
    """What a forward pass moves.

    layers: one row for each module that moved or computed anything, in the order of the module tree; operators: one
    for each ATen operator; calls: one for each call, in the order in which they ran; each of the three sums to the
    totals. uncounted: operators that could not be charged exactly, each with the number of calls and what was assumed;
    missing: what the layer ledger has no number for, as in ``Profile``.
    peak_activation_bytes: the largest sum of tensors alive at once, the inputs among them, parameters and buffers not.
    mode, why: how the model was run; leftovers: as in ``Profile``.
    """

    layers: List[LayerRow]
    operators: List[OperatorRow]
    calls: List[OperatorCall]
    uncounted: Dict[str, Tuple[int, str]]
    missing: Dict[str, int]
    peak_activation_bytes: int
    mode: str
    why: str
    leftovers: List[str] = field(default_factory=list)

    @property
    def read_bytes(self) -> int:
        """Bytes read."""
        return sum(row.read_bytes for row in self.operators)

    @property
    def written_bytes(self) -> int:
        """Bytes written."""
        return sum(row.written_bytes for row in self.operators)

    @property
    def flops(self) -> int:
        """Floating-point operations of matrix products, convolutions and attention."""
        return sum(row.flops for row in self.operators)

    @property
    def arithmetic_intensity(self) -> float:
        """FLOPs per byte moved; 0 where nothing is moved."""
        moved = self.read_bytes + self.written_bytes
        return self.flops / moved if moved else 0.0


# ---- the ledger ----


class _Plan(NamedTuple):
    """How the calls of one operator are charged."""

    name: str
    charge: Callable[..., Moved]
    is_view: bool
    makes_memory: bool
    product: Optional[Product]
    makes_indices: bool
    assumption: str


Place = Tuple[str, str]
"""A phase of a run and a module's path."""


def in_blocks(size: int, block: int) -> int:
    """A size as an allocator hands it out: rounded up to whole blocks."""
    return -(-size // block) * block


class _Tracked(weakref.ref):  # type: ignore[type-arg]
    """A reference to a tensor, with the key of its storage."""

    __slots__ = ("key",)
    key: int
    __hash__ = object.__hash__  # and not the tensor's, nor a comparison of its elements
    __eq__ = object.__eq__


class Alive:
    """Sums the storages that are alive, and keeps the largest sum, with the place that it was reached at.

    A storage may be gone once the last tensor on it is, which each of them tells; only then it is looked at.
    place: what the run is at, as its ledger says; block: what a size is rounded up to.
    """

    def __init__(self, block: int = 1) -> None:
        self.block = block
        self.storages: Dict[int, Tuple[WeakStorage, int, Place]] = {}
        self.tensors: Dict[int, Set[_Tracked]] = {}  # on each storage
        self.orphans: Set[int] = set()  # storages without a tensor that is known
        self.place: Place = ("", "")
        self.peak_place: Place = ("", "")
        self.sum = 0  # of all that is alive, and of orphans that may not be
        self.peak = 0

    def add(self, tensor: Tensor, is_view: bool = False) -> None:
        """A tensor has come to be; if its storage is known, it is a view."""
        if tensor.layout is not torch.strided or not tensor.numel():
            return
        storage = storage_of(tensor)
        key = storage._cdata
        known = self.storages.get(key)
        if known is not None and (HAS_STORAGE or not known[0].expired()):
            self._track(tensor, key)
            return
        if is_view:
            return
        if known is not None:
            self._forget(key)
        size = in_blocks(storage.nbytes(), self.block)
        self.storages[key] = WeakStorage(storage), size, self.place
        self._track(tensor, key)
        self.sum += size
        if self.sum > self.peak:
            self._bury()
            if self.sum > self.peak:
                self.peak, self.peak_place = self.sum, self.place

    def _track(self, tensor: Tensor, key: int) -> None:
        reference = _Tracked(tensor, self._died)
        reference.key = key
        self.tensors.setdefault(key, set()).add(reference)
        self.orphans.discard(key)

    def _died(self, reference: _Tracked) -> None:
        tensors = self.tensors.get(reference.key)
        if tensors is not None:
            tensors.discard(reference)
            if not tensors:
                self.orphans.add(reference.key)

    def _bury(self) -> None:
        """Take off what is gone; an orphan that is not is held by somebody who has made no tensor of it."""
        for key in [key for key in self.orphans if self.storages[key][0].expired()]:
            self._forget(key)

    def _forget(self, key: int) -> None:
        self.sum -= self.storages.pop(key)[1]
        self.tensors.pop(key, None)
        self.orphans.discard(key)

    def by_place(self, phase: str) -> List[Tuple[str, int]]:
        """The sizes of what is alive and was made in a phase, each with the path that it was made at."""
        self._bury()
        return [(place[1], size) for _, size, place in self.storages.values() if place[0] == phase]


class TrafficLedger(LayerLedger):
    """The layer ledger, and in the same pass the bytes and FLOPs of every operator, by the module it ran in."""

    def __init__(self, replica: Replica, custom_ops: Optional[CustomOps] = None) -> None:
        super().__init__(replica, custom_ops)
        self.rows: Dict[int, LayerRow] = {}
        self.calls_made: List[OperatorCall] = []
        self.uncounted: Dict[str, Tuple[int, str]] = {}
        self.alive = Alive()
        self.plans: Dict[int, _Plan] = {}
        self.pool: Optional[Tuple[OperatorCall, WeakStorage, int]] = None

    def begin(self, arguments: Any) -> None:
        for tensor in tensors_in(arguments):
            self.alive.add(tensor)

    def operator(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        if self.asking_a_rule:
            return
        super().operator(func, args, kwargs, out)
        self._move(func, args, kwargs, out)

    def taken_apart(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        super().taken_apart(func, args, kwargs, out)
        if func._schema.name in PRODUCTS_IN_DISGUISE and not self.asking_a_rule and self.calls_made:
            call = self.calls_made[-1]
            call.flops += 2 * PRODUCTS[func._schema.name].formula(args, kwargs, out)
            call.dtype = tensors_in(args)[0].dtype

    def operator_of_layer(self, func: Any, arguments: Tuple[Any, ...], out: Any) -> None:
        self._move(func, arguments, {}, out)

    def _move(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        """Charge an operator to the module that is running."""
        if self.pool is not None:
            self._settle_pool()
        plan = self.plans.get(id(func))
        if plan is None:
            plan = self.plans[id(func)] = self._plan(func)
        call = OperatorCall(self._row(), plan.name)
        if plan.charge is not reserved:
            self.calls_made.append(call)
        if plan.is_view:
            for tensor in (out,) if isinstance(out, Tensor) else tensors_in((out,)):
                self.alive.add(tensor, is_view=True)
            return
        try:
            call.read_bytes, call.written_bytes = plan.charge(args, kwargs, out)
            if plan.product is not None:
                call.flops, call.dtype = 2 * plan.product.formula(args, kwargs, out), tensors_in(args)[0].dtype
        except Exception as error:
            where = self.current.path or "the model itself"
            self._note(f"{plan.name} in {where}", f"not charged: {in_few_words(error)}")
            return
        if plan.makes_memory:
            for tensor in (out,) if isinstance(out, Tensor) else tensors_in((out,)):
                self.alive.add(tensor)
        if plan.makes_indices:
            self.pool = call, WeakStorage(storage_of(out[1])), stored_bytes(out[1])
        if plan.assumption:
            self._note(plan.name, plan.assumption)

    def _note(self, name: str, what: str) -> None:
        """Say in the result that something has no exact number."""
        self.uncounted[name] = self.uncounted.get(name, (0, ""))[0] + 1, what

    def _plan(self, func: Any) -> _Plan:
        """Look up, once for each operator, how its calls are charged."""
        name, effects = func._schema.name, effects_of(func)
        charge = SPECIAL_CASES.get(name) or partial(by_schema, effects)
        assumption = DATA_DEPENDENT.get(name) or ("" if name.startswith(("aten::", "prim")) else ASSUMED_ONCE)
        if not kind_of(func):
            assumption = f"{assumption}; {NO_FORMULA}" if assumption else NO_FORMULA
        return _Plan(
            name=name,
            charge=charge,
            is_view=effects.is_view,
            makes_memory=any(effects.new_results) and not effects.is_view,
            product=product_of(func),
            makes_indices=name in POOLS_WITH_INDICES,
            assumption=assumption,
        )

    def _row(self) -> LayerRow:
        """Return the row of the module that is running."""
        row = self.rows.get(id(self.current))
        if row is None:
            row = self.rows[id(self.current)] = LayerRow("")
        return row

    def _settle_pool(self) -> None:
        """Take the last pooling's indices off again if nobody has kept them.

        ATen's max pooling always makes them, eight bytes for each maximum; a layer that was not asked to return them
        drops them at once, and no deployed kernel writes them.
        """
        if self.pool is not None:
            call, indices, size = self.pool
            if indices.expired():
                call.written_bytes -= size
            self.pool = None

    def end(self, output: Any) -> None:
        self._settle_pool()
        super().end(output)

    def result(self, outcome: Run) -> Traffic:
        """Put the rows together."""
        for call in self.calls_made:
            call.operator = call.operator.replace("aten::", "")
            part = _row_of(call.layer.operators, call.operator)
            part.calls += 1
            part.flops += call.flops
            part.read_bytes += call.read_bytes
            part.written_bytes += call.written_bytes
        operators: Dict[str, OperatorRow] = {}
        layers: List[LayerRow] = []
        for layer in self.root.walk():
            if layer.calls or layer.ops or layer.kernel or layer.output or id(layer) in self.rows:
                row = self.rows.get(id(layer)) or LayerRow("")
                for part in row.operators.values():
                    _add(row, part)
                    _add(_row_of(operators, part.operator), part)
                _describe(row, layer)
                layers.append(row)
        return Traffic(
            Rows(layers),
            Rows(operators.values()),
            Rows(self.calls_made),
            uncounted=self.uncounted,
            missing=self.missing,
            peak_activation_bytes=self.alive.peak,
            mode=outcome.mode,
            why=outcome.why,
            leftovers=outcome.leftovers,
        )


def _describe(row: LayerRow, layer: Layer) -> None:
    """Fill in what the layer ledger knows."""
    row.operator = ", ".join(row.operators)
    row.path, row.type, row.output_shape = layer.path, layer.kind.__name__, tuple(layer.output_shape)
    row.calls, row.parameters = layer.calls, sum(layer.parameters.values())
    row.total_ops, row.kernel, row.output = layer.ops, layer.kernel, layer.output


def _add(total: OperatorRow, part: OperatorRow) -> None:
    total.calls += part.calls
    total.flops += part.flops
    total.read_bytes += part.read_bytes
    total.written_bytes += part.written_bytes


def _row_of(rows: Dict[str, OperatorRow], operator: str) -> OperatorRow:
    row = rows.get(operator)
    if row is None:
        row = rows[operator] = OperatorRow(operator)
    return row


@collector_paused()
def traffic(
    model: nn.Module,
    inputs: Union[Sequence[Any], Tensor],
    custom_ops: Optional[CustomOps] = None,
    kwargs: Optional[Dict[str, Any]] = None,
) -> Traffic:
    """Count the bytes and FLOPs of one forward pass of ``model``, operator by operator, in evaluation mode.

    Args:
        model: any module; it is not touched, a copy of it is run.
        inputs: the positional arguments of its forward, or the only one if it is a tensor.
        custom_ops: as for ``profile``, for the layer columns.
        kwargs: the keyword arguments of its forward.

    Raises:
        TypeError: ``model`` is not a module, or ``inputs`` not a tensor, tuple or list.
        Exception: whatever the model's own forward raises.
    """
    ledgers: List[TrafficLedger] = []

    def observe(replica: Replica) -> TrafficLedger:
        ledgers.append(TrafficLedger(replica, custom_ops))
        return ledgers[-1]

    outcome = run(as_model(model, "traffic"), as_inputs(inputs, "traffic"), observe, kwargs=kwargs)
    return ledgers[-1].result(outcome)
