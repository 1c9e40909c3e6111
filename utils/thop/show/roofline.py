"""The roofline: what each layer of a network could reach on a device, and what has no place in it.

After Williams, Waterman and Patterson (Communications of the ACM, April 2009).
"""

import math
import textwrap
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence, Tuple

from ..deploy.bound import LayerBound, TimeBound
from ..deploy.devices import Device
from ..traffic import Traffic
from ..units import dtype_name
from .drawing import (
    ARITHMETIC,
    DPI,
    INK,
    MEMORY,
    Place,
    Style,
    in_units,
    layer_name,
    log_axis,
    write,
    write_head,
    write_instead,
)
from .placement import Placement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LARGEST = 130.0  # square points
_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("", 0.0))


def draw_roofline(axes: "Axes", traffic: Traffic, bound: TimeBound) -> None:
    """Draw the ceilings of the device, and each layer with FLOPs; the few heaviest are named."""
    peaks, marks = _peaks(traffic, bound.device), _marks(bound)
    _limit_roofline(axes, marks, peaks, bound.device.bandwidth)
    placement = Placement(axes)
    _draw_ceilings(axes, placement, peaks, bound.device.bandwidth)
    for binds, colours in (("memory", MEMORY), ("arithmetic", ARITHMETIC)):
        shown = [mark for mark in marks if mark.bound.binds == binds]
        xs, ys, areas = [m.x for m in shown], [m.y for m in shown], [m.area for m in shown]
        edges = [min(0.4, math.sqrt(area) / 12) for area in areas]
        axes.scatter(xs, ys, s=areas, linewidths=edges, zorder=3, gid=f"{binds}-bound", **colours)
    for mark in marks:
        placement.avoid_mark(mark.x, mark.y, mark.radius)
    heaviest = [id(each) for each in _heaviest(bound)]
    unnamed = placement.write([(m.text, m.x, m.y, m.radius) for m in marks if id(m.bound) in heaviest])
    title = f"Roofline ({unnamed} of the {len(heaviest)} heaviest without a name)" if unnamed else "Roofline"
    write_head(axes, title, _marks_explained(marks[0].share if marks else 0.0))
    if not marks:
        text = "this torch can't count FLOPs" if "FLOPs" in traffic.uncounted else "no layer computes products"
        write_instead(axes, text)


class _Mark(NamedTuple):
    """A layer in the roofline; share: of the bounded time; area: as scatter takes it, of the square around the mark."""

    bound: LayerBound
    share: float
    area: float

    @property
    def x(self) -> float:
        """FLOPs a byte."""
        return self.bound.layer.intensity

    @property
    def y(self) -> float:
        """FLOPs a second."""
        return self.bound.layer.flops / self.bound.seconds

    @property
    def radius(self) -> float:
        """Points from the middle to the edge."""
        return math.sqrt(self.area) / 2

    @property
    def text(self) -> str:
        """The layer's name, and its share."""
        return f"{layer_name(self.bound.layer)} {self.share:.1%}"


def _marks(bound: TimeBound) -> List[_Mark]:
    """The layers with FLOPs, the heaviest first."""
    layers = [each for each in bound.layers if each.layer.flops and each.seconds]
    layers.sort(key=lambda each: each.seconds, reverse=True)
    return [_Mark(each, each.seconds / bound.seconds, _LARGEST * each.seconds / layers[0].seconds) for each in layers]


def _heaviest(bound: TimeBound) -> List[LayerBound]:
    """Those of the heaviest layers that take any time."""
    return [each for each in bound.heaviest() if each.seconds]


def _peaks(traffic: Traffic, device: Device) -> Dict[str, float]:
    """The device's peaks in the precisions that are used, that of most FLOPs first; if none is, the first it has."""
    flops: Dict[Any, int] = {}
    for call in traffic.calls:
        if call.flops and call.dtype is not None:
            flops[call.dtype] = flops.get(call.dtype, 0) + call.flops
    used = sorted(flops, key=lambda dtype: flops[dtype], reverse=True)
    peaks = {dtype_name(dtype): device.peak(dtype) for dtype in used}
    return peaks or dict(list(device.peaks.items())[:1])


def _limit_roofline(axes: "Axes", marks: Sequence[_Mark], peaks: Dict[str, float], bandwidth: float) -> None:
    """Show all marks, enough of the ceilings to see what they are, and room for names above."""
    ridges = [peak / bandwidth for peak in peaks.values()]
    left = min([mark.x for mark in marks] + [ridge / 5 for ridge in ridges]) / 1.6
    right = max([mark.x for mark in marks] + [ridge * 5 for ridge in ridges]) * 1.6
    bottom = min([mark.y for mark in marks] + [bandwidth * left]) / 1.3
    highest = max(peaks.values())
    prefix, unit = next((prefix, unit) for prefix, unit in _UNITS if highest >= unit)
    log_axis(axes, "x", left, right)
    log_axis(axes, "y", bottom, highest * (highest / bottom) ** 0.3, unit)
    axes.set_xlabel("arithmetic intensity (FLOP/byte)")
    axes.set_ylabel(f"attainable performance ({prefix}FLOP/s)")


def _draw_ceilings(axes: "Axes", placement: Placement, peaks: Dict[str, float], bandwidth: float) -> None:
    """Draw the bandwidth, the peak, the ridge between them, and as a thin line the peak of any other precision."""
    (left, right), bottom = axes.get_xlim(), axes.get_ylim()[0]
    peak, highest = next(iter(peaks.values())), max(peaks.values())
    ridge = peak / bandwidth
    thin: Style = {"linewidth": 0.6, "linestyle": (0, (4, 3))}
    lines: List[Tuple[str, Place, Place, Style]] = [
        ("bandwidth", (left, bandwidth * left), (highest / bandwidth, highest), {"linewidth": 1}),
        ("peak", (ridge, peak), (right, peak), {"linewidth": 1}),
        ("ridge", (ridge, bottom), (ridge, peak), thin),
        *(("peak", (p / bandwidth, p), (right, p), thin) for p in sorted(set(peaks.values()) - {peak})),
    ]
    for gid, start, end, style in lines:
        axes.plot(*zip(start, end), color=INK, gid=gid, **style)
        placement.avoid_line(start, end)
    _name_ceilings(axes, placement, peaks, bandwidth)


def _name_ceilings(axes: "Axes", placement: Placement, peaks: Dict[str, float], bandwidth: float) -> None:
    left, right = axes.get_xlim()
    highest, ridge = max(peaks.values()), next(iter(peaks.values())) / bandwidth
    corners = [(left, bandwidth * left), (highest / bandwidth, highest), (ridge, highest), (right, highest)]
    start, top, foot, end = axes.transData.transform(corners) * 72 / DPI
    quiet: Style = {"style": "italic", "color": INK}
    side, away = ("left", 3) if end[0] - foot[0] > 90 else ("right", -3)
    style: Style = {"ha": side, "va": "bottom", **quiet}
    texts = [write(axes, f"ridge at {ridge:.3g} FLOP/byte", (ridge, axes.get_ylim()[0]), (away, 3), **style)]
    for peak in sorted(set(peaks.values())):
        precisions = ", ".join(precision for precision in peaks if peaks[precision] == peak)
        text = f"peak {in_units(peak)}FLOP/s, {precisions}"
        texts.append(write(axes, text, (right, peak), (-3, 7), ha="right", va="bottom", **quiet))
    text = f"{in_units(bandwidth)}B/s"
    text = f"bandwidth {text}" if math.dist(start, top) > 100 else text
    turn, middle = math.atan2(top[1] - start[1], top[0] - start[0]), math.sqrt(left * highest / bandwidth)
    offset = -10 * math.sin(turn), 10 * math.cos(turn)
    style = {"ha": "center", "va": "center", "rotation": math.degrees(turn), "rotation_mode": "anchor", **quiet}
    texts.append(write(axes, text, (middle, middle * bandwidth), offset, **style))
    for each in texts:
        placement.avoid_text(each)


def _marks_explained(largest_share: float) -> List[Tuple[Any, str]]:
    """What colours and areas mean."""
    entries = [(_circle(MEMORY, 30), "memory-bound"), (_circle(ARITHMETIC, 30), "arithmetic-bound")]
    if largest_share:
        shares = [digit * 10.0**power for power in range(-9, 1) for digit in (1, 2, 5)]
        share = max(share for share in shares if share <= 0.6 * largest_share)
        hollow = {"facecolor": "white", "edgecolor": INK}
        entries.append((_circle(hollow, _LARGEST * share / largest_share), f"{100 * share:.3g}% of the time"))
    return entries


def _circle(colours: Style, area: float) -> Any:
    from matplotlib.lines import Line2D

    style: Style = {f"marker{part}": colour for part, colour in colours.items()}
    return Line2D([], [], linestyle="", marker="o", markersize=math.sqrt(area), markeredgewidth=0.4, **style)


# ---- what has no place in the roofline ----

_LINE_HEIGHT = 0.125  # inches
_TYPES = 3
_NO_BREAK = "\N{NO-BREAK SPACE}"


class Rest(NamedTuple):
    """Layers without FLOPs: the share of the time of each type, and what is written beside it, a line or more."""

    rows: List[Tuple[float, List[str]]]

    @property
    def height(self) -> float:
        """Inches that it takes."""
        return _LINE_HEIGHT * (1.2 + sum(len(lines) for _, lines in self.rows)) if self.rows else 0.0

    def draw(self, axes: "Axes") -> None:
        """Fill the axes with a heading, and below it a bar with its text for each type."""
        longest = max(share for share, _ in self.rows)
        axes.axis("off")
        axes.set_xlim(0, 6.5 * longest)
        axes.set_ylim(self.height / _LINE_HEIGHT, 0)
        head = f"Without products (0 FLOP/byte): {sum(share for share, _ in self.rows):.1%} of the time"
        axes.text(0, 0.5, head, va="center", weight="bold")
        line = 1.7
        for share, texts in self.rows:
            axes.barh(line, share, 0.64, linewidth=0.4, gid="without products", **MEMORY)
            for text in texts:
                write(axes, text, (longest, line), (4, 0), va="center")
                line += 1


def without_products(bound: TimeBound) -> Rest:
    """Sum the layers without FLOPs by type, and name those among them that are of the network's heaviest."""
    heaviest = [id(each) for each in _heaviest(bound)]
    types: Dict[str, float] = {}
    names: Dict[str, List[str]] = {}
    for each in bound.layers:
        if each.seconds and not each.layer.flops:
            share = each.seconds / bound.seconds
            types[each.layer.type] = types.get(each.layer.type, 0.0) + share
            if id(each) in heaviest and each.layer.path:
                names.setdefault(each.layer.type, []).append(f"{layer_name(each.layer)}{_NO_BREAK}{share:.1%}")
    ranked = sorted(types, key=lambda each: types[each], reverse=True)
    shown = [each for i, each in enumerate(ranked) if i < _TYPES or each in names or len(ranked) == _TYPES + 1]
    rows = [(types[each], f"{each} ({', '.join(names[each])})" if each in names else each) for each in shown]
    more = len(ranked) - len(shown)
    if more:
        others = math.fsum(types[each] for each in ranked if each not in shown)
        rows.append((others, f"{more} other type{'s' * (more > 1)}"))
    return Rest([(share, _wrapped(f"{share:.1%} {text}")) for share, text in rows])


def _wrapped(text: str) -> List[str]:
    lines = textwrap.wrap(text, 42, subsequent_indent="   ", break_on_hyphens=False)
    return [line.replace(_NO_BREAK, " ") for line in lines]


__all__ = ["Rest", "draw_roofline", "without_products"]
