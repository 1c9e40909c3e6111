"""A network's accesses in the order of execution: a bar for each layer, or for each module where there are many."""

import math
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Sequence, Tuple

from ..count.rows import LayerRow
from ..traffic import Traffic
from .drawing import KERNEL, OUTPUT, cut, write_head, write_instead

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 60
_FEWEST = 8  # fewer bars are not drawn wider
_LONGEST_LABEL = 20
_LETTER, _UPRIGHT = 4.5, 8.0  # points along the axis that a letter takes, and a whole name that stands upright


class _Bar(NamedTuple):
    """A layer, or a module with all that is in it; accesses in elements."""

    path: str
    kernel: float
    output: float


class Bars(NamedTuple):
    """The bars, which of them are labelled and how, and what stands below that."""

    bars: List[_Bar]
    labels: Dict[int, str]
    upright: bool
    what: str

    @property
    def below(self) -> float:
        """Inches that the labels take below the axes."""
        text = 0.052 * max(map(len, self.labels.values()), default=0) + 0.05 if self.upright else 0.13
        return 0.12 + text + 0.12 * (1 + self.what.count("\n"))

    def draw(self, axes: "Axes") -> None:
        """Draw the bars, the kernel's part below the output's."""
        from matplotlib.patches import Patch

        kernel, output = [bar.kernel / 1e6 for bar in self.bars], [bar.output / 1e6 for bar in self.bars]
        places, width = range(len(self.bars)), 0.8 if len(self.bars) <= 2 * _MOST else 1.0
        axes.bar(places, kernel, width, gid="kernel", **KERNEL)
        axes.bar(places, output, width, bottom=kernel, gid="output", **OUTPUT)
        spare = max(0, _FEWEST - len(self.bars)) / 2
        axes.set_xlim(-0.7 - spare, len(self.bars) - 0.3 + spare)
        axes.set_ylim(bottom=0)
        axes.set_xticks(list(self.labels))
        axes.set_xticklabels(list(self.labels.values()), rotation=90 if self.upright else 0)
        axes.set_xlabel(self.what)
        axes.set_ylabel("accesses (M)")
        axes.grid(True, axis="y")
        meanings = (KERNEL, "kernel (weights read)"), (OUTPUT, "output (elements written)")
        write_head(axes, "Accesses along the network", [(Patch(**colour), text) for colour, text in meanings])
        if not self.bars:
            axes.set_yticks([])
            write_instead(axes, "no layer has accesses")


def lay_out(traffic: Traffic, width: float) -> Bars:
    """Lay out the bars of a network in so many inches."""
    layers = _in_order(traffic)
    bars = _bars(layers)
    grouped = len(bars) < len(layers)
    what = "module" if grouped else "layer"
    if len(bars) > 1:
        what += f"s {cut(bars[0].path, 24)} to {cut(bars[-1].path, 24)},\nin the order of execution"
    what += ", each with all that is in it" * grouped
    return Bars(bars, *_bar_labels([bar.path.split(".") for bar in bars], width * 72), what)


def _bar_labels(paths: Sequence[List[str]], width: float) -> Tuple[Dict[int, str], bool]:
    """Label as many bars as there is room for in so many points; return the labels and whether they stand upright.

    What all paths begin with is left out. Where there is no room for all, the first bar of each module is labelled
    with the module's path, and not all of those if they are still too many.
    """
    shared = 0
    while len(paths) > 1 and len({path[shared] for path in paths}) == 1 and min(map(len, paths)) > shared + 1:
        shared += 1
    names = [cut(".".join(path[shared:]), _LONGEST_LABEL) for path in paths]
    pitch = width / (max(len(names), _FEWEST) if len(names) > 1 else 1)
    longest = max(map(len, names), default=0)
    if longest <= 3 or (longest + 1) * _LETTER < pitch:
        step = math.ceil((longest + 1) * _LETTER / pitch)
        return {i: names[i] for i in range(0, len(names), step)}, False
    labels = dict(enumerate(names))
    depth = max(map(len, paths))
    while len(labels) * _UPRIGHT > width and depth > shared + 1:
        depth -= 1
        beginnings = [cut(".".join(path[shared:depth]), _LONGEST_LABEL) for path in paths]
        labels = {i: name for i, name in enumerate(beginnings) if not i or paths[i][:depth] != paths[i - 1][:depth]}
    spaced: Dict[int, str] = {}
    for i, name in labels.items():
        if not spaced or (i - max(spaced)) * pitch >= _UPRIGHT:
            spaced[i] = name
    return spaced, True


def _in_order(traffic: Traffic) -> List[LayerRow]:
    """The layers with accesses in the order of their first call, or of the first call of anything within them."""
    first: Dict[str, int] = {}
    for i, call in enumerate(traffic.calls):
        parts = call.layer.path.split(".")
        for depth in range(len(parts) + 1):
            first.setdefault(".".join(parts[:depth]), i)
    layers = [layer for layer in traffic.layers if layer.kernel or layer.output]
    return sorted(layers, key=lambda layer: first.get(layer.path, len(traffic.calls)))


def _bars(layers: Sequence[LayerRow]) -> List[_Bar]:
    """Add the layers up to modules, at the deepest level at which there are not too many."""
    deepest = max((layer.path.count(".") + 1 for layer in layers), default=1)
    bars: Dict[str, _Bar] = {}
    for depth in range(deepest, 0, -1):
        bars.clear()
        for layer in layers:
            path = ".".join((layer.path or layer.type).split(".")[:depth])
            _, kernel, output = bars.get(path, _Bar(path, 0, 0))
            bars[path] = _Bar(path, kernel + layer.kernel, output + layer.output)
        if len(bars) <= _MOST:
            break
    return list(bars.values())


__all__ = ["Bars", "lay_out"]
