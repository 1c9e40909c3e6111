"""The rows that calls sum up to: one type for an operator, one for a module."""

from dataclasses import dataclass, field
from typing import Dict, Tuple


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
