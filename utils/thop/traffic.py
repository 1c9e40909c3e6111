"""The operator ledger: the bytes that every operator of a model must move, read and written.

What a call moves is in ``count/bytes.py``, what it multiplies in ``count/flops.py``: two FLOPs a multiply-accumulate.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from torch import Tensor, nn

from .answer import Answer, Rows
from .count.calls import LayerRow, OperatorCall, OperatorRow
from .count.layer_rules import CustomOps
from .count.places import Layer
from .count.record import Recording, record
from .run import as_inputs, as_model, collector_paused


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


def traffic_of(recording: Recording) -> Traffic:
    """Sum up the calls of a recording by operator and by module."""
    for row in recording.rows.values():
        row.operators = {}
    for call in recording.calls:
        part = _row_of(call.layer.operators, call.operator)
        part.calls += 1
        part.flops += call.flops
        part.read_bytes += call.read_bytes
        part.written_bytes += call.written_bytes
    operators: Dict[str, OperatorRow] = {}
    layers: List[LayerRow] = []
    for layer in recording.layers.root.walk():
        if id(layer) in recording.rows or layer.calls or layer.ops or layer.kernel or layer.output:
            row = recording.rows.get(id(layer)) or LayerRow("", path=layer.path)
            layers.append(_summed(row, layer, operators))
    return Traffic(
        Rows(layers),
        Rows(operators.values()),
        Rows(recording.calls),
        uncounted=recording.uncounted,
        missing=recording.layers.missing,
        peak_activation_bytes=recording.peak_activation_bytes,
        mode=recording.layers.mode,
        why=recording.layers.why,
        leftovers=recording.layers.leftovers,
    )


def _summed(row: LayerRow, layer: Layer, operators: Dict[str, OperatorRow]) -> LayerRow:
    """Sum up a module's operators into its row and into the rows of all, and fill in what its layer knows."""
    row.flops = row.read_bytes = row.written_bytes = 0
    for part in row.operators.values():
        for total in (row, _row_of(operators, part.operator)):
            total.calls += part.calls
            total.flops += part.flops
            total.read_bytes += part.read_bytes
            total.written_bytes += part.written_bytes
    row.operator = ", ".join(row.operators)
    row.type, row.output_shape = layer.kind.__name__, tuple(layer.output_shape)
    row.calls, row.parameters = layer.calls, sum(layer.parameters.values())
    row.total_ops, row.kernel, row.output = layer.ops, layer.kernel, layer.output
    return row


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
    return traffic_of(record(as_model(model, "traffic"), as_inputs(inputs, "traffic"), custom_ops, kwargs))
