"""The operator ledger: the bytes that every operator of a model must move, read and written.

Whether an operator returns a view, or writes in place, is read from its schema. What the schema can't tell stands in
one short registry, an entry with its reasoning for each true exception. FLOPs are those of
``torch.utils.flop_counter``, two for each multiply-accumulate.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .products import Product, kind_of, product_of
from .profile import CustomOps, Layer, LayerLedger
from .run import (
    Effects,
    Replica,
    Run,
    WeakStorage,
    collector_paused,
    effects_of,
    in_few_words,
    run,
    storage_of,
    tensors_in,
    unwrap,
)


class Moved(NamedTuple):
    """Bytes that one call of an operator reads and writes."""

    read: int
    written: int


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
    operators: Dict[str, OperatorRow] = field(default_factory=dict)


@dataclass
class OperatorCall:
    """One call of an ATen operator, views among them; ``dtype`` is that of its operands where it has FLOPs."""

    layer: LayerRow
    operator: str
    flops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    dtype: Optional[torch.dtype] = None

    @property
    def bytes(self) -> int:
        """Bytes read and written together."""
        return self.read_bytes + self.written_bytes


@dataclass
class Traffic:
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
    calls: List[OperatorCall] = field(repr=False)
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


# ---- what one call moves ----


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements; those in a broadcast axis (stride 0) or in overlapping windows are moved once."""
    if tensor.layout is not torch.strided:
        return sum(map(stored_bytes, _stored_parts(tensor)))
    count = tensor.numel()
    if count and not tensor.is_contiguous():
        extent = 1
        for size, stride in zip(tensor.shape, tensor.stride()):
            extent += (size - 1) * stride
            if stride == 0:
                count //= size
        count = min(count, extent)
    return count * tensor.element_size()


def _stored_parts(tensor: Any) -> List[Tensor]:
    """Return the tensors that a sparse one consists of."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    raise NotImplementedError(f"a tensor of layout {tensor.layout}")


def read_once(tensors: Sequence[Tensor]) -> int:
    """Bytes of several inputs, where the same elements passed twice are read once."""
    if len(tensors) == 1 or any(t.layout is not torch.strided for t in tensors):
        return sum(map(stored_bytes, tensors))
    distinct = {(storage_of(t)._cdata, t.storage_offset(), t.shape, t.stride(), t.dtype): t for t in tensors}
    return sum(map(stored_bytes, distinct.values()))


def _by_schema(effects: Effects, args: Any, kwargs: Any, out: Any) -> Moved:
    """Charge each distinct input as read, each new result and each argument that is written to as written."""
    inputs = tensors_in(args)
    if kwargs:
        inputs += tensors_in([v for name, v in kwargs.items() if name not in effects.write_only])
    read = read_once(inputs)
    if not effects.written and isinstance(out, Tensor):
        return Moved(read, stored_bytes(out))
    results = out if isinstance(out, (tuple, list)) else (out,)
    if len(effects.new_results) == len(results):
        results = [result for result, new in zip(results, effects.new_results) if new]
    elif not all(effects.new_results):
        results = []
    written = [args[i] if i < len(args) else kwargs.get(name) for i, name in effects.written]
    return Moved(read, sum(map(stored_bytes, tensors_in((*results, *written)))))


Exception_ = Callable[..., Moved]
_EXCEPTIONS: Dict[str, Exception_] = {}


def _exception(*operators: str) -> Callable[[Exception_], Exception_]:
    """Register what operators move whose schema does not tell; the function takes ``args``, ``kwargs`` and ``out``."""

    def register(charge: Exception_) -> Exception_:
        for operator in operators:
            _EXCEPTIONS[f"aten::{operator}"] = charge
        return charge

    return register


@_exception("_unsafe_view", "scalar_tensor", "_fused_sdp_choice")
def _nothing(args: Any, kwargs: Any, out: Any) -> Moved:
    """Memory gets another name, or a Python number the form of a tensor; no element is touched."""
    return Moved(0, 0)


@_exception("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
def _reserved(args: Any, kwargs: Any, out: Any) -> Moved:
    """No element is touched. It has no row: the layers' own forward passes reserve memory in ways of their own."""
    return Moved(0, 0)


@_exception(
    "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "new_zeros", "new_ones",
    "new_full",
)  # fmt: skip
def _made_like(args: Any, kwargs: Any, out: Tensor) -> Moved:
    """The first argument gives its shape alone."""
    return Moved(0, stored_bytes(out))


@_exception("zero_", "fill_", "normal_", "uniform_", "bernoulli_", "random_", "exponential_")
def _filled(args: Any, kwargs: Any, out: Tensor) -> Moved:
    """What was there before is not looked at."""
    return Moved(read_once(tensors_in(args[1:])) if tensors_in(args[1:]) else 0, stored_bytes(args[0]))


@_exception("copy_")
def _copied(args: Any, kwargs: Any, out: Tensor) -> Moved:
    """The source is read, the destination only written."""
    return Moved(stored_bytes(args[1]), stored_bytes(args[0]))


@_exception("embedding", "index_select", "gather", "index", "take", "_unsafe_index")
def _looked_up(args: Any, kwargs: Any, out: Tensor) -> Moved:
    """Of the table only the elements that are returned are read, and the indices that say which."""
    indices = tensors_in(args[1:]) + tensors_in(kwargs.values())
    return Moved(stored_bytes(out) + sum(map(stored_bytes, indices)), stored_bytes(out))


@_exception("_embedding_bag", "_embedding_bag_forward_only")
def _looked_up_and_reduced(args: Any, kwargs: Any, out: Any) -> Moved:
    """A row of the table for each index, then one result for each bag."""
    weight, indices = args[:2]
    rows = indices.numel() * weight.shape[-1] * weight.element_size()
    return Moved(rows + sum(map(stored_bytes, tensors_in(args[1:]))), sum(map(stored_bytes, tensors_in(out))))


@_exception("scatter_", "scatter_add_", "scatter_reduce_", "index_add_", "index_copy_", "index_fill_", "index_put_")
def _scattered(args: Any, kwargs: Any, out: Any) -> Moved:
    """Values and indices are read, and as many elements written as there are values."""
    given = tensors_in(args[1:]) + tensors_in(kwargs.values())
    values = [t for t in given if t.dtype is args[0].dtype] or given
    touched = max(t.numel() for t in (given if len(values) == len(given) else values)) * args[0].element_size()
    return Moved(sum(map(stored_bytes, given)), touched)


@_exception(
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def _attended(args: Any, kwargs: Any, out: Any) -> Moved:
    """The fused kernel keeps the attention matrix to itself: queries, keys, values and mask in, the result out.

    What else it returns is for a backward pass.
    """
    return Moved(read_once(tensors_in(args) + tensors_in(kwargs.values())), stored_bytes(tensors_in((out,))[0]))


_POOLS_WITH_INDICES = frozenset(
    f"aten::{name}" for name in ("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d",
                                 "adaptive_max_pool3d", "fractional_max_pool2d", "fractional_max_pool3d")
)  # fmt: skip
_DATA_DEPENDENT = {
    "aten::grid_sampler_2d": "every input element is read once",
    "aten::grid_sampler_3d": "every input element is read once",
    "aten::_native_multi_head_attention": "inputs are read and the result written; what lies between is not charged",
    "aten::_transformer_encoder_layer_fwd": "inputs are read and the result written; what lies between is not charged",
}
_NO_FORMULA = "its arithmetic has no formula, and counts as no FLOPs"
_ASSUMED_ONCE = "every input is read once and every result written once"


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


class _Alive:
    """Sums the storages that are alive, and keeps the largest sum."""

    def __init__(self) -> None:
        self.storages: Dict[int, Tuple[WeakStorage, int]] = {}
        self.bound = 0  # what was alive at the last look, and all that came since
        self.peak = 0

    def add(self, tensor: Tensor) -> None:
        """A tensor has come to be; if its storage is known, it is a view."""
        if tensor.layout is not torch.strided or not tensor.numel():
            return
        storage = storage_of(tensor)
        reference = WeakStorage(storage)
        known = self.storages.get(reference.key)
        if known is not None and not known[0].expired():
            return
        size = storage.nbytes()
        if known is not None:
            self.bound -= known[1]
        self.storages[reference.key] = reference, size
        self.bound += size
        if self.bound > self.peak:
            self.storages = {key: value for key, value in self.storages.items() if not value[0].expired()}
            self.bound = sum(size for _, size in self.storages.values())
            self.peak = max(self.peak, self.bound)


class TrafficLedger(LayerLedger):
    """The layer ledger, and in the same pass the bytes and FLOPs of every operator, by the module it ran in."""

    def __init__(self, replica: Replica, custom_ops: Optional[CustomOps] = None) -> None:
        super().__init__(replica, custom_ops)
        self.rows: Dict[int, LayerRow] = {}
        self.calls_made: List[OperatorCall] = []
        self.uncounted: Dict[str, Tuple[int, str]] = {}
        self.alive = _Alive()
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
        if plan.charge is not _reserved:
            self.calls_made.append(call)
        if plan.is_view:
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
        charge = _EXCEPTIONS.get(name) or partial(_by_schema, effects)
        assumption = _DATA_DEPENDENT.get(name) or ("" if name.startswith(("aten::", "prim")) else _ASSUMED_ONCE)
        if not kind_of(func):
            assumption = f"{assumption}; {_NO_FORMULA}" if assumption else _NO_FORMULA
        return _Plan(
            name=name,
            charge=charge,
            is_view=effects.is_view,
            makes_memory=any(effects.new_results) and not effects.is_view,
            product=product_of(func),
            makes_indices=name in _POOLS_WITH_INDICES,
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

    def end(self) -> None:
        self._settle_pool()
        super().end()

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
            layers,
            list(operators.values()),
            self.calls_made,
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
    inputs: Sequence[Any],
    custom_ops: Optional[CustomOps] = None,
    kwargs: Optional[Dict[str, Any]] = None,
) -> Traffic:
    """Count the bytes and FLOPs of one forward pass of ``model``, operator by operator, in evaluation mode.

    Args:
        model: any module; it is not touched, a copy of it is run.
        inputs: the positional arguments of its forward.
        custom_ops: as for ``profile``, for the layer columns.
        kwargs: the keyword arguments of its forward.

    Raises:
        TypeError: ``model`` is not a module, or ``inputs`` not a tuple or list.
        Exception: whatever the model's own forward raises.
    """
    ledgers: List[TrafficLedger] = []

    def observe(replica: Replica) -> TrafficLedger:
        ledgers.append(TrafficLedger(replica, custom_ops))
        return ledgers[-1]

    outcome = run(unwrap(model), inputs, observe, kwargs=kwargs)
    return ledgers[-1].result(outcome)
