"""One network on a page: the roofline of its layers on a device, and beside it its accesses along the way.

The roofline is after Williams, Waterman and Patterson (Communications of the ACM, April 2009).
"""

import math
import textwrap
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..count.calls import LayerRow
from ..deploy.bound import LayerBound, TimeBound
from ..deploy.devices import Device
from ..traffic import Traffic
from ..units import dtype_name
from .drawing import (
    ARITHMETIC,
    COLUMN,
    DPI,
    INK,
    KERNEL,
    MEMORY,
    OUTPUT,
    Mark,
    Style,
    end_of,
    in_units,
    layer_name,
    log_axis,
    new_axes,
    new_figure,
    number_marks,
    own_settings,
    write,
    write_head,
    write_instead,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GUTTER = 0.2  # inches between two columns
_HEIGHT = 2.2  # of the roofline
_LINE_HEIGHT = 0.125  # inches


def network_figure(
    name: str, traffic: Traffic, bound: TimeBound, said: Sequence[str] = (), depth: Optional[int] = None
) -> "Figure":
    """Draw a network's roofline on the device of ``bound``, and beside it its accesses in the order of execution.

    In the roofline a layer stands at its arithmetic intensity (FLOPs per byte of its own operators) and the FLOPs a
    second that its bound allows; its area is its share of the bounded time. The heaviest have numbers, and their names
    below. Layers without FLOPs have no place on such an axis: their shares stand there too, by type. On the right a bar
    is a layer, or a module with all that is in it where there would be more than 60 bars.

    said: what is expected of the network on the device, as it is deployed there, which stands in place of the bound of
    what was counted; depth: levels of modules that have bars, as of the table.
    """
    with own_settings():
        marks = _marks(bound)
        strip, bars = _strip(bound, marks), _lay_out(traffic, COLUMN - 0.43, depth)
        bottom = max(0.5, 0.52 + strip.height, bars.below - 0.6)
        figure = new_figure(2 * COLUMN + _GUTTER, bottom + _HEIGHT + 0.8)
        left = new_axes(figure, 0.5, bottom, COLUMN - 0.55, _HEIGHT)
        right = new_axes(figure, COLUMN + _GUTTER + 0.38, bars.below, COLUMN - 0.43, bottom + _HEIGHT - bars.below)
        _write_title(figure, name, bound, said)
        _draw_roofline(left, marks, _peaks(traffic, bound.device), bound.device.bandwidth)
        if not marks:
            text = "this torch can't count FLOPs" if "FLOPs" in traffic.uncounted else "no layer computes products"
            write_instead(left, text)
        if strip.height:
            strip.draw(new_axes(figure, 0.5, bottom - 0.49 - strip.height, COLUMN - 0.55, strip.height))
        bars.draw(right)
    return figure


def _write_title(figure: "Figure", name: str, bound: TimeBound, said: Sequence[str]) -> None:
    height = figure.get_size_inches()[1]
    time = "nothing is moved"
    if bound.seconds:
        memory = bound.memory_seconds / bound.seconds
        time = f"at least {in_units(bound.seconds)}s, {memory:.0%} of that bound by memory"
    device = textwrap.shorten(bound.device.title, 70, placeholder="..")
    figure.text(0.5, 1 - 0.08 / height, end_of(name, 70), ha="center", va="top", size=9, weight="bold")
    words = [text.partition(";")[0] for text in said] or [f"{device}: {time}"]
    words[1:] = [text.replace(f"{bound.device.title}: ", "") for text in words[1:]]
    figure.text(0.5, 1 - 0.25 / height, end_of("; ".join(words), 140), ha="center", va="top")


def accesses_figure(title: str, traffic: Traffic) -> "Figure":
    """Draw a network's accesses in the order of execution, as on the right of ``network_figure``."""
    with own_settings():
        bars = _lay_out(traffic, 2 * COLUMN - 0.5)
        height = bars.below + _HEIGHT + 0.55
        figure = new_figure(2 * COLUMN, height)
        bars.draw(new_axes(figure, 0.43, bars.below, 2 * COLUMN - 0.5, _HEIGHT))
        figure.text(0.5, 1 - 0.08 / height, end_of(title, 130), ha="center", va="top", size=7.5, weight="bold")
    return figure


# ---- the roofline ----

_LARGEST = 130.0  # square points
_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("", 0.0))


def _draw_roofline(axes: "Axes", marks: Sequence["_Layer"], peaks: Dict[str, float], bandwidth: float) -> None:
    """Draw the ceilings of the device, and each layer with FLOPs; the few heaviest have numbers."""
    _limit_roofline(axes, marks, peaks, bandwidth)
    texts = _draw_ceilings(axes, peaks, bandwidth)
    for binds, colours in (("memory", MEMORY), ("arithmetic", ARITHMETIC)):
        shown = [mark for mark in marks if mark.bound.binds == binds]
        xs, ys, areas = [m.x for m in shown], [m.y for m in shown], [m.area for m in shown]
        edges = [min(0.4, math.sqrt(area) / 12) for area in areas]
        axes.scatter(xs, ys, s=areas, linewidths=edges, zorder=3, gid=f"{binds}-bound", **colours)
    most = sum(bool(mark.name) for mark in marks)
    places = [Mark(mark.x, mark.y, math.sqrt(mark.area) / 2) for mark in marks]
    missing = number_marks(axes, places[:most], places[most:], texts)
    title = f"Roofline ({missing} of the {most} heaviest without a number)" if missing else "Roofline"
    write_head(axes, title, _marks_explained(marks[0].share if marks else 0.0))


class _Layer(NamedTuple):
    """A layer in the roofline; share: of the bounded time; area: as scatter takes it, of the square around the mark.

    name: of those of the heaviest layers, which are the first.
    """

    bound: LayerBound
    share: float
    area: float
    name: str

    @property
    def x(self) -> float:
        """FLOPs a byte."""
        return self.bound.layer.intensity

    @property
    def y(self) -> float:
        """FLOPs a second."""
        return self.bound.layer.flops / self.bound.seconds


def _marks(bound: TimeBound) -> List[_Layer]:
    """The layers with FLOPs, the heaviest first."""
    layers = [each for each in bound.layers if each.layer.flops and each.seconds]
    layers.sort(key=lambda each: each.seconds, reverse=True)
    heaviest, found = _heaviest(bound), []
    for each in layers:
        share, area = each.seconds / bound.seconds, _LARGEST * each.seconds / layers[0].seconds
        name = f"{layer_name(each.layer)} {share:.1%}" if id(each) in heaviest else ""
        found.append(_Layer(each, share, area, name))
    return found


def _heaviest(bound: TimeBound) -> List[int]:
    """Those of the heaviest layers that take any time, by identity."""
    return [id(each) for each in bound.heaviest() if each.seconds]


def _peaks(traffic: Traffic, device: Device) -> Dict[str, float]:
    """The device's peaks in the precisions that are used, that of most FLOPs first; if none is, the first it has."""
    flops: Dict[Any, int] = {}
    for call in traffic.calls:
        if call.flops and call.dtype is not None:
            flops[call.dtype] = flops.get(call.dtype, 0) + call.flops
    used = sorted(flops, key=lambda dtype: flops[dtype], reverse=True)
    peaks = {dtype_name(dtype): device.peak(dtype) for dtype in used}
    return peaks or dict(list(device.peaks.items())[:1])


def _limit_roofline(axes: "Axes", marks: Sequence[_Layer], peaks: Dict[str, float], bandwidth: float) -> None:
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


def _draw_ceilings(axes: "Axes", peaks: Dict[str, float], bandwidth: float) -> List[Any]:
    """Draw the bandwidth, the peak, the ridge between them, and thinly the peak of any other precision; name them."""
    (left, right), bottom = axes.get_xlim(), axes.get_ylim()[0]
    peak, highest = next(iter(peaks.values())), max(peaks.values())
    ridge = peak / bandwidth
    thin: Style = {"linewidth": 0.6, "linestyle": (0, (4, 3))}
    lines: List[Tuple[str, Tuple[float, float], Tuple[float, float], Style]] = [
        ("bandwidth", (left, bandwidth * left), (highest / bandwidth, highest), {"linewidth": 1}),
        ("peak", (ridge, peak), (right, peak), {"linewidth": 1}),
        ("ridge", (ridge, bottom), (ridge, peak), thin),
        *(("peak", (p / bandwidth, p), (right, p), thin) for p in sorted(set(peaks.values()) - {peak})),
    ]
    for gid, start, end, style in lines:
        axes.plot(*zip(start, end), color=INK, gid=gid, **style)
    return _name_ceilings(axes, peaks, bandwidth)


def _name_ceilings(axes: "Axes", peaks: Dict[str, float], bandwidth: float) -> List[Any]:
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
    return [*texts, write(axes, text, (middle, middle * bandwidth), offset, **style)]


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


# ---- what stands below it: names, and what has no place in it ----

_TYPES = 3
_NO_BREAK = "\N{NO-BREAK SPACE}"


class _Strip(NamedTuple):
    """What stands below the roofline.

    names: those of the marks with numbers, in their order; rows: of layers without FLOPs the share of the time of each
    type, and what is written beside it, a line or more.
    """

    names: List[str]
    rows: List[Tuple[float, List[str]]]

    @property
    def height(self) -> float:
        """Inches that it takes."""
        lines = [len(self.names), sum(len(texts) for _, texts in self.rows)]
        return _LINE_HEIGHT * sum(number + 1.4 for number in lines if number)

    def draw(self, axes: "Axes") -> None:
        """Fill the axes with the names, and with a bar and its text for each type."""
        longest = max((share for share, _ in self.rows), default=1.0)
        axes.axis("off")
        axes.set_xlim(0, 6.5 * longest)
        axes.set_ylim(self.height / _LINE_HEIGHT, 0)
        line = 0.5
        if self.names:
            axes.text(0, line, "The heaviest with products: shares of the time", va="center", weight="bold")
            for i, name in enumerate(self.names, 1):
                axes.text(0, line + i, f"{i}  {name}", va="center")
            line += len(self.names) + 1.4
        if self.rows:
            whole = sum(share for share, _ in self.rows)
            axes.text(0, line, f"Without products (0 FLOP/byte): {whole:.1%} of the time", va="center", weight="bold")
            line += 1.2
        for share, texts in self.rows:
            axes.barh(line, share, 0.64, linewidth=0.4, gid="without products", **MEMORY)
            for text in texts:
                write(axes, text, (longest, line), (4, 0), va="center")
                line += 1


def _strip(bound: TimeBound, marks: Sequence[_Layer]) -> _Strip:
    """Name the heaviest layers; sum those without FLOPs by type, with the names of the heaviest among them."""
    heaviest = _heaviest(bound)
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
    return _Strip(
        [mark.name for mark in marks if mark.name], [(share, _wrapped(f"{share:.1%} {text}")) for share, text in rows]
    )


def _wrapped(text: str) -> List[str]:
    lines = textwrap.wrap(text, 42, subsequent_indent="   ", break_on_hyphens=False)
    return [line.replace(_NO_BREAK, " ") for line in lines]


# ---- the accesses along the network ----

_MOST = 60
_FEWEST = 8  # fewer bars are not drawn wider
_LONGEST_LABEL = 20
_LETTER, _UPRIGHT = 4.5, 8.0  # points along the axis that a letter takes, and a whole name that stands upright


class _Bars(NamedTuple):
    """Kernel and output accesses by path; which of the bars are labelled and how, and what stands below that."""

    bars: Dict[str, Tuple[float, float]]
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

        kernel, output = ([bar[part] / 1e6 for bar in self.bars.values()] for part in (0, 1))
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


def _lay_out(traffic: Traffic, width: float, depth: Optional[int] = None) -> _Bars:
    """Lay out the bars of a network in so many inches."""
    layers = _in_order(traffic)
    bars = _bars(layers, depth)
    paths = list(bars)
    grouped = len(bars) < len(layers)
    what = "module" if grouped else "layer"
    if len(bars) > 1:
        what += f"s {end_of(paths[0], 24)} to {end_of(paths[-1], 24)},\nin the order of execution"
    what += ", each with all that is in it" * grouped
    return _Bars(bars, *_bar_labels([path.split(".") for path in paths], width * 72), what)


def _bar_labels(paths: Sequence[List[str]], width: float) -> Tuple[Dict[int, str], bool]:
    """Label as many bars as there is room for in so many points; return the labels and whether they stand upright.

    What all paths begin with is left out. Where there is no room for all, the first bar of each module is labelled
    with the module's path, and not all of those if they are still too many.
    """
    shared = _shared(paths)
    names = [end_of(".".join(path[shared:]), _LONGEST_LABEL) for path in paths]
    pitch = width / (max(len(names), _FEWEST) if len(names) > 1 else 1)
    longest = max(map(len, names), default=0)
    if longest <= 3 or (longest + 1) * _LETTER < pitch:
        step = math.ceil((longest + 1) * _LETTER / pitch)
        return {i: names[i] for i in range(0, len(names), step)}, False
    labels = dict(enumerate(names))
    depth = max(map(len, paths))
    while len(labels) * _UPRIGHT > width and depth > shared + 1:
        depth -= 1
        beginnings = [end_of(".".join(path[shared:depth]), _LONGEST_LABEL) for path in paths]
        labels = {i: name for i, name in enumerate(beginnings) if not i or paths[i][:depth] != paths[i - 1][:depth]}
    spaced: Dict[int, str] = {}
    for i, name in labels.items():
        if not spaced or (i - max(spaced)) * pitch >= _UPRIGHT:
            spaced[i] = name
    return spaced, True


def _shared(paths: Sequence[Sequence[str]]) -> int:
    """How many parts all paths begin with."""
    shared = 0
    while len(paths) > 1 and len({path[shared] for path in paths}) == 1 and min(map(len, paths)) > shared + 1:
        shared += 1
    return shared


def _in_order(traffic: Traffic) -> List[LayerRow]:
    """The layers with accesses in the order of their first call, or of the first call of anything within them."""
    first: Dict[str, int] = {}
    for i, call in enumerate(traffic.calls):
        parts = call.layer.path.split(".")
        for depth in range(len(parts) + 1):
            first.setdefault(".".join(parts[:depth]), i)
    layers = [layer for layer in traffic.layers if layer.kernel or layer.output]
    return sorted(layers, key=lambda layer: first.get(layer.path, len(traffic.calls)))


def _bars(layers: Sequence[LayerRow], most: Optional[int] = None) -> Dict[str, Tuple[float, float]]:
    """Add the layers up to modules, at the deepest level at which there are not too many, of so many levels at most."""
    deepest = max((layer.path.count(".") + 1 for layer in layers), default=1)
    if most is not None:
        deepest = min(deepest, most + _shared([layer.path.split(".") for layer in layers]))
    bars: Dict[str, Tuple[float, float]] = {}
    for depth in range(deepest, 0, -1):
        bars.clear()
        for layer in layers:
            path = ".".join((layer.path or layer.type).split(".")[:depth])
            kernel, output = bars.get(path, (0, 0))
            bars[path] = kernel + layer.kernel, output + layer.output
        if len(bars) <= _MOST:
            break
    return bars
