"""How counts are shown: readable numbers, the end of the summary line, the per-layer table."""

from dataclasses import dataclass
from typing import Any, Iterable, Iterator, List, Optional, Tuple

from .profile import Layer, Profile, count_parameters

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K"))


def clever_format(nums: Any, format: str = "%.2f") -> Any:
    """Format a number, or several, with the units T, G, M, K and B (ones), as thop's function of this name does.

    Returns a string for one number, a tuple of strings for several.
    """
    numbers = nums if isinstance(nums, Iterable) else (nums,)
    texts = tuple(_scaled(number, format, "B") for number in numbers)
    return texts[0] if len(texts) == 1 else texts


def readable(number: float) -> str:
    """Format a count for reading: 81856816 as 81.9M, 512 as 512."""
    return _scaled(number, "%.1f" if abs(number) >= 1000 else "%.0f", "")


def _scaled(number: float, format: str, unit_of_ones: str) -> str:
    for scale, unit in _UNITS:
        if abs(number) >= scale:
            return format % (number / scale) + unit
    return format % number + unit_of_ones


@dataclass
class ModelInfo:
    """What ``model_info`` returns: the summary line's numbers, and the profile that they come from.

    layers, parameters, gradients: as the checkout's own line has them; imgsz: (height, width) that was counted, if any;
    profile: None where counting failed, and then ``error`` says why. Unpacks to layers, parameters, gradients, GFLOPs.
    """

    layers: int
    parameters: int
    gradients: int
    imgsz: Optional[Tuple[int, int]]
    profile: Optional[Profile]
    error: str = ""

    def _total(self, index: int) -> float:
        return float("nan") if self.profile is None else self.profile[index]

    @property
    def total_ops(self) -> float:
        """Multiply-accumulates of one image's forward pass; not a number where counting failed."""
        return self._total(0)

    @property
    def total_params(self) -> float:
        """Parameters, each counted once."""
        return self._total(1)

    @property
    def total_kernel_macs(self) -> float:
        """Weight elements read."""
        return self._total(2)

    @property
    def total_output_macs(self) -> float:
        """Output elements written."""
        return self._total(3)

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations, two for each multiply-accumulate."""
        return self.total_ops * 2 / 1e9

    @property
    def mode(self) -> str:
        """How the model was run for counting."""
        return self.profile.mode if self.profile else ""

    def __iter__(self) -> Iterator[float]:
        return iter((self.layers, self.parameters, self.gradients, self.gflops))


def accesses(kernel: float, output: float) -> str:
    """The summary line's words for memory access."""
    return f"{readable(kernel + output)} memory accesses ({readable(kernel)} kernel + {readable(output)} output)"


def layer_table(profile: Profile) -> str:
    """Lay out the layers of a profile as text, one a line in the order of the module tree, with a total row."""
    from pandas import DataFrame

    everything = profile.total_kernel_macs + profile.total_output_macs
    rows = [_row(layer, everything) for layer in profile.layers]
    total = ("total", "", "", profile.total_params, profile.total_ops, *profile[2:4], everything and 1.0)
    columns = ("name", "type", "output shape", "parameters", "GFLOPs", "kernel", "output", "share")
    table = DataFrame([_cells(row) for row in (*rows, total)], columns=list(columns))
    for column in columns[:2]:
        width = max(map(len, [*table[column], column]))
        table[column] = table[column].str.ljust(width)
        table = table.rename(columns={column: column.ljust(width)})
    lines = table.to_string(index=False).splitlines()
    return "\n".join((*lines[:-1], "-" * len(lines[0]), lines[-1]))


def _row(layer: Layer, everything: float) -> Tuple[Any, ...]:
    parameters = count_parameters(layer.module, recurse=not layer.children)
    share = (layer.kernel + layer.output) / everything if everything else 0.0
    shape = "x".join(map(str, layer.output_shape))
    kind = type(layer.module).__name__
    return layer.path or kind, kind, shape, parameters, layer.ops, layer.kernel, layer.output, share


def _cells(row: Tuple[Any, ...]) -> List[str]:
    name, kind, shape, parameters, ops, kernel, output, share = row
    numbers = f"{int(parameters):,}", f"{ops * 2 / 1e9:.4f}", f"{int(kernel):,}", f"{int(output):,}"
    return [name, kind, shape, *numbers, f"{share:.1%}"]
