"""A call of an operator: what was called, by whom, what it has read and written; and the rows that calls sum up to."""

from dataclasses import dataclass, field
from math import prod
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..run import element_size
from .facts import OperatorFacts

FORWARD, LOSS, BACKWARD, OPTIMIZER, VALIDATION = "forward", "loss", "backward", "optimizer", "validation"


class View(NamedTuple):
    """A tensor that a call reads or writes.

    value: which one its storage holds; offset, shape, strides: which part of it, strides None where the elements lie in
    the order of the shape; elements, bytes: what is moved of it.
    """

    value: int
    offset: int
    shape: Tuple[int, ...]
    strides: Optional[Tuple[int, ...]]
    dtype: torch.dtype
    elements: int
    bytes: int

    @property
    def region(self) -> Tuple[Any, ...]:
        """Which part of the value it is."""
        return self[1:4]

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return element_size(self.dtype)

    @property
    def dense(self) -> bool:
        """Whether it lies in memory in the order of its shape."""
        return self.strides is None

    @property
    def channels_last(self) -> bool:
        """Whether an image's channels lie next to each other."""
        return self.strides is not None and len(self.shape) == 4 and self.strides[1] == 1

    def moving(self, moved: int) -> "View":
        """The same tensor, of which so many bytes are moved."""
        return self._replace(elements=moved // self.itemsize, bytes=moved)


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


class Moving:
    """What reads and writes bytes."""

    read_bytes: int
    written_bytes: int

    @property
    def bytes(self) -> int:
        """Bytes read and written together."""
        return self.read_bytes + self.written_bytes


@dataclass
class OperatorRow(Moving):
    """All calls of one ATen operator."""

    operator: str
    calls: int = 0
    flops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

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
class OperatorCall(Moving):
    """One call of an ATen operator, views among them; ``dtype`` is that of its operands where it has FLOPs.

    layer: the row of the module that ran it; facts: what is known of the operator; reads, writes: what it was given and
    has made, nothing where it made a view; geometry: of a product; padded_window: of a max pool that pads; after: a
    value that is written over in part, or whose rest is kept: no element of it is read; phase: of a training step;
    number: of the call in its run.
    """

    layer: LayerRow = field(repr=False)
    facts: OperatorFacts = field(repr=False)
    operator: str
    flops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    dtype: Optional[torch.dtype] = None
    reads: Sequence[View] = field(repr=False, default=())
    writes: Sequence[View] = field(repr=False, default=())
    geometry: Optional[Geometry] = field(repr=False, default=None)
    padded_window: Tuple[int, ...] = field(repr=False, default=())
    after: Optional[int] = field(repr=False, default=None)
    phase: str = field(repr=False, default=FORWARD)
    number: int = field(repr=False, default=0)

    @property
    def name(self) -> str:
        """The operator's name, with its namespace."""
        return self.facts.name

    @property
    def kind(self) -> str:
        """What kind of operator it is, as ``op_kinds`` names it."""
        return self.facts.kind

    @property
    def path(self) -> str:
        """The path of the module that ran it."""
        return self.layer.path


def geometry_of(call: OperatorCall, args: Sequence[Any]) -> Optional[Geometry]:
    """Read a product's form off its operands; rows are what its FLOPs leave for them."""
    tensors = [tensor for tensor in args if isinstance(tensor, Tensor)]
    if len(tensors) < 2:
        return None
    if "conv" not in call.name:
        left, right = tensors[-2:] if "add" in call.name else tensors[:2]
        if "attention" in call.name:
            inner, columns = left.shape[-1] + tensors[2].shape[-1], right.shape[-2]
        else:
            inner, columns = left.shape[-1], right.shape[-1]
        return Geometry(call.flops // max(2 * inner * columns, 1), inner, columns)
    weight = tensors[1]
    transposed = len(args) > 6 and args[6] is True
    groups = next((int(arg) for arg in args[8:9]), 1)
    window = tuple(weight.shape[2:])
    columns = weight.shape[1] * groups if transposed else weight.shape[0]
    inner = prod(weight.shape[1:]) if not transposed else weight.shape[0] // groups * prod(window)
    rows = call.flops // max(2 * prod(weight.shape[1:]) * weight.shape[0], 1)
    stride = tuple(args[3]) if len(args) > 3 and isinstance(args[3], (list, tuple)) else ()
    return Geometry(rows, inner, columns, groups, window, stride, transposed)
