"""Pictures for a page: the roofline of a network beside its accesses along the way, and several networks compared.

They are one or two columns of a paper wide, and readable in grey. They are made without pyplot: no display is needed,
and the user's own settings of matplotlib neither matter nor change.
"""

import math
import os
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple, Union

from .bound import LayerBound, TimeBound
from .devices import Device
from .placement import Placement
from .traffic import LayerRow, Traffic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PathLike = Union[str, "os.PathLike[str]"]
Style = Dict[str, Any]
Place = Tuple[float, float]
SUFFIXES = (".png", ".svg", ".pdf")

_COLUMN, _GUTTER = 3.4, 0.2  # inches: a column of a paper, and what is between two
_DPI = 300
_SETTINGS: Any = {
    "font.size": 7, "axes.titlesize": 7.5, "axes.labelsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "axes.linewidth": 0.6, "axes.labelpad": 2, "axes.axisbelow": True,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "ytick.minor.width": 0.4,
    "xtick.major.size": 3, "ytick.major.size": 3, "xtick.minor.size": 1.5, "ytick.minor.size": 1.5,
    "xtick.major.pad": 2, "ytick.major.pad": 2, "grid.linewidth": 0.4, "grid.color": "0.88",
    "legend.frameon": False, "legend.borderaxespad": 0, "legend.borderpad": 0.2, "legend.handletextpad": 0.4,
    "legend.columnspacing": 0.9, "legend.handlelength": 1.0,
    "svg.fonttype": "none", "svg.hashsalt": "utils.thop", "pdf.fonttype": 42,
}  # fmt: skip
_NO_DATE: Dict[str, Dict[str, None]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}

# Of each pair one is dark and one light, so that grey tells them apart.
_ARITHMETIC: Style = {"facecolor": "#1f4e8c", "edgecolor": "#ffffff"}
_MEMORY: Style = {"facecolor": "#f5c04a", "edgecolor": "#5b4300"}
_KERNEL, _OUTPUT = "#00504a", "#8fd3c4"
_LINE = "#333333"

_FEW = 30  # models; of more, the marks are smaller and names stay nearer


class Point(NamedTuple):
    """A model in ``comparison_figure``; accesses: kernel and output together, in elements."""

    name: str
    gflops: float
    accesses: float


def network_figure(name: str, traffic: Traffic, bound: TimeBound) -> "Figure":
    """Draw a network's roofline on the device of ``bound``, and beside it its accesses in the order of execution.

    In the roofline a layer stands at its arithmetic intensity (FLOPs per byte of its own operators) and the FLOPs a
    second that its bound allows; its area is its share of the bounded time. Layers without FLOPs have no place on
    such an axis: their shares stand below it, by type. On the right a bar is a layer, or a module with all that is in
    it where there would be more than 60 bars. Raises DeviceError as ``time_bound`` does.
    """
    with _own_settings():
        rest, profile = _without_products(bound), _profile(traffic, _COLUMN - 0.43)
        bottom = 0.4 + max(0.1, 0.12 + rest.height)
        figure = _figure(2 * _COLUMN + _GUTTER, bottom + 3.0)
        left = _axes(figure, 0.5, bottom, _COLUMN - 0.55, 2.2)
        right = _axes(figure, _COLUMN + _GUTTER + 0.38, profile.below, _COLUMN - 0.43, bottom + 2.2 - profile.below)
        _write_title(figure, name, bound)
        _draw_roofline(left, traffic, bound)
        if rest.rows:
            rest.draw(_axes(figure, 0.5, 0.03, _COLUMN - 0.55, rest.height))
        profile.draw(right)
    return figure


def comparison_figure(points: Sequence[Point]) -> "Figure":
    """Draw models by GFLOPs and memory accesses, with their names; those without room for one are counted below.

    Points must be finite. An axis is logarithmic where its largest value is more than 30 times its smallest.
    """
    with _own_settings():
        figure = _figure(_COLUMN, 3.1)
        axes = _axes(figure, 0.48, 0.48, _COLUMN - 0.62, 2.56)
        xs, ys = [point.gflops for point in points], [point.accesses / 1e6 for point in points]
        _fit_axis(axes, "x", xs)
        _fit_axis(axes, "y", ys)
        axes.set_xlabel("GFLOPs")
        axes.set_ylabel("memory accesses (M)")
        axes.grid(True)
        area = 18 if len(points) <= _FEW else 9
        axes.scatter(xs, ys, s=area, linewidths=0.4, zorder=3, gid="models", **_ARITHMETIC)
        placement = Placement(axes)
        radius = math.sqrt(area) / 2
        for x, y in zip(xs, ys):
            placement.avoid_mark(x, y, radius)
        names = [(_cut(point.name, 36), x, y, radius) for point, x, y in zip(points, xs, ys)]
        unnamed = placement.write(names, dearest=95 if len(points) <= _FEW else 45)
        if unnamed:
            text = f"{unnamed} of {len(points)} models are without a name, for want of room"
            figure.text(0.99, 0.01, text, ha="right", va="bottom", style="italic")
    return figure


def save_figure(figure: "Figure", path: PathLike) -> None:
    """Write a figure as its file's suffix says: .png (300 dots an inch), .svg (text stays text) or .pdf.

    The same figure gives the same file. Raises ValueError for another suffix, OSError where the file can't be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: the name of a picture must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    with _own_settings():
        figure.savefig(path, format=suffix[1:], dpi=_DPI, metadata=_NO_DATE[suffix])


# ---- figures ----


@contextmanager
def _own_settings() -> Iterator[None]:
    """Take matplotlib's defaults and ours for a while, whatever the user has set."""
    import matplotlib
    from matplotlib import style

    with style.context("default"), matplotlib.rc_context(_SETTINGS):
        yield


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Axes at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _write_title(figure: "Figure", name: str, bound: TimeBound) -> None:
    height = figure.get_size_inches()[1]
    memory = bound.memory_seconds / bound.seconds if bound.seconds else 0.0
    time = f"at least {_in_units(bound.seconds)}s, {memory:.0%} of that bound by memory"
    figure.text(0.5, 1 - 0.08 / height, _cut(name, 70), ha="center", va="top", size=9, weight="bold")
    figure.text(0.5, 1 - 0.25 / height, f"{_cut(bound.device.title, 70)}: {time}", ha="center", va="top")


def _cut(text: str, longest: int) -> str:
    """Keep the end of a name, which tells it from its neighbours, if possible from a dot on."""
    if len(text) <= longest:
        return text
    end = text[2 - longest :]
    dot = end.find(".") + 1
    return ".." + (end[dot:] if len(end) - dot > longest / 2 else end)


def _name(layer: LayerRow) -> str:
    return _cut(layer.path or layer.type, 32)


def _in_units(number: float) -> str:
    """A number with three digits and a space, and the prefix of its unit: 1.23 G."""
    from matplotlib.ticker import EngFormatter

    text = EngFormatter(sep=" ").format_eng(float(f"{number:.3g}"))
    return text if text[-1].isalpha() else f"{text.strip()} "


def _head(axes: "Axes", title: str, entries: Sequence[Tuple[Any, str]]) -> None:
    """Write a title above the axes, and below it a line that explains the marks."""
    axes.set_title(title, loc="left", pad=15, weight="bold")
    handles, labels = zip(*entries)
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1.015), ncol=len(entries))


def _log_axis(axes: "Axes", which: str, low: float, high: float, unit: float = 1.0) -> None:
    """A logarithmic axis with plain numbers, in a unit; a short one has more of them."""
    from matplotlib import ticker

    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    axis = getattr(axes, f"{which}axis")
    steps = (1.0,) if high / low >= 300 else (1.0, 3.0) if high / low >= 20 else (1.0, 2.0, 5.0)
    axis.set_major_locator(ticker.LogLocator(subs=steps, numticks=20))
    axis.set_minor_locator(ticker.LogLocator(subs=tuple(range(1, 10)), numticks=200))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value / unit:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _fit_axis(axes: "Axes", which: Any, values: Sequence[float]) -> None:
    """Limit an axis to the values, with a margin for marks and names; one that begins near 0 begins at 0."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low > 0 and high > 30 * low:
        margin = (high / low) ** 0.12
        _log_axis(axes, which, low / margin, high * margin)
        return
    if low < 0.6 * high or len(set(values)) == 1:
        low = 0.0
    margin = max(0.12 * (high - low), 0.02 * high) or 1.0
    getattr(axes, f"set_{which}lim")(low - margin if low else 0.0, high + margin)
    axes.ticklabel_format(axis=which, style="plain", useOffset=False)


# ---- roofline ----

_HEAVIEST = 5
_LARGEST = 130.0  # square points
_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("", 0.0))


def _draw_roofline(axes: "Axes", traffic: Traffic, bound: TimeBound) -> None:
    peaks, marks = _peaks(traffic, bound.device), _marks(bound)
    _limit_roofline(axes, marks, peaks, bound.device.bandwidth)
    placement = Placement(axes)
    _draw_ceilings(axes, placement, peaks, bound.device.bandwidth)
    for binds, colours in (("memory", _MEMORY), ("arithmetic", _ARITHMETIC)):
        shown = [mark for mark in marks if mark.bound.binds == binds]
        xs, ys, areas = [m.x for m in shown], [m.y for m in shown], [m.area for m in shown]
        axes.scatter(xs, ys, s=areas, linewidths=0.4, zorder=3, gid=f"{binds}-bound", **colours)
    for mark in marks:
        placement.avoid_mark(mark.x, mark.y, mark.radius)
    heaviest = [id(each) for each in _heaviest(bound)]
    placement.write([(m.text, m.x, m.y, m.radius) for m in marks if id(m.bound) in heaviest])
    _head(axes, "Roofline", _marks_explained(marks[0].share if marks else 0.0))
    if not marks:
        text = "this torch can't count FLOPs" if "FLOPs" in traffic.uncounted else "no layer computes products"
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


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
        return f"{_name(self.bound.layer)} {self.share:.1%}"


def _marks(bound: TimeBound) -> List[_Mark]:
    """The layers with FLOPs, the heaviest first."""
    layers = [each for each in bound.layers if each.layer.flops and each.seconds]
    layers.sort(key=lambda each: each.seconds, reverse=True)
    return [_Mark(each, each.seconds / bound.seconds, _LARGEST * each.seconds / layers[0].seconds) for each in layers]


def _heaviest(bound: TimeBound) -> List[LayerBound]:
    """The few layers that take most of the bounded time."""
    ranked = sorted(bound.layers, key=lambda each: each.seconds, reverse=True)
    return [each for each in ranked[:_HEAVIEST] if each.seconds]


def _peaks(traffic: Traffic, device: Device) -> Dict[str, float]:
    """The device's peaks in the precisions that are used, that of most FLOPs first; if none is, the first it has."""
    flops: Dict[Any, int] = {}
    for call in traffic.calls:
        if call.flops and call.dtype is not None:
            flops[call.dtype] = flops.get(call.dtype, 0) + call.flops
    used = sorted(flops, key=lambda dtype: flops[dtype], reverse=True)
    peaks = {str(dtype).replace("torch.", ""): device.peak(dtype) for dtype in used}
    return peaks or dict(list(device.peaks.items())[:1])


def _limit_roofline(axes: "Axes", marks: Sequence[_Mark], peaks: Dict[str, float], bandwidth: float) -> None:
    """Show all marks, enough of the ceilings to see what they are, and room for names above."""
    ridges = [peak / bandwidth for peak in peaks.values()]
    left = min([mark.x for mark in marks] + [ridge / 5 for ridge in ridges]) / 1.6
    right = max([mark.x for mark in marks] + [ridge * 5 for ridge in ridges]) * 1.6
    bottom = min([mark.y for mark in marks] + [bandwidth * left]) / 1.3
    highest = max(peaks.values())
    prefix, unit = next((prefix, unit) for prefix, unit in _UNITS if highest >= unit)
    _log_axis(axes, "x", left, right)
    _log_axis(axes, "y", bottom, highest * (highest / bottom) ** 0.3, unit)
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
        axes.plot(*zip(start, end), color=_LINE, gid=gid, **style)
        placement.avoid_line(start, end)
    _name_ceilings(axes, placement, peaks, bandwidth)


def _name_ceilings(axes: "Axes", placement: Placement, peaks: Dict[str, float], bandwidth: float) -> None:
    left, right = axes.get_xlim()
    highest, ridge = max(peaks.values()), next(iter(peaks.values())) / bandwidth
    corners = [(left, bandwidth * left), (highest / bandwidth, highest), (ridge, highest), (right, highest)]
    start, top, foot, end = axes.transData.transform(corners) * 72 / _DPI
    quiet: Style = {"style": "italic", "color": _LINE}
    side, away = ("left", 3) if end[0] - foot[0] > 80 else ("right", -3)
    style: Style = {"ha": side, "va": "bottom", **quiet}
    texts = [_write(axes, f"ridge at {ridge:.3g} FLOP/byte", (ridge, axes.get_ylim()[0]), (away, 3), **style)]
    for peak in sorted(set(peaks.values())):
        precisions = ", ".join(precision for precision in peaks if peaks[precision] == peak)
        text = f"peak {_in_units(peak)}FLOP/s, {precisions}"
        texts.append(_write(axes, text, (right, peak), (-3, 7), ha="right", va="bottom", **quiet))
    text = f"{_in_units(bandwidth)}B/s"
    text = f"bandwidth {text}" if math.dist(start, top) > 100 else text
    turn, middle = math.atan2(top[1] - start[1], top[0] - start[0]), math.sqrt(left * highest / bandwidth)
    offset = -10 * math.sin(turn), 10 * math.cos(turn)
    style = {"ha": "center", "va": "center", "rotation": math.degrees(turn), "rotation_mode": "anchor", **quiet}
    texts.append(_write(axes, text, (middle, middle * bandwidth), offset, **style))
    for each in texts:
        placement.avoid_text(each)


def _write(axes: "Axes", text: str, place: Place, offset: Place, **style: Any) -> Any:
    """Write beside a place in the axes, so many points away."""
    return axes.annotate(text, place, xytext=offset, textcoords="offset points", **style)


def _marks_explained(largest_share: float) -> List[Tuple[Any, str]]:
    """What colours and areas mean."""
    entries = [(_circle(_MEMORY, 30), "memory-bound"), (_circle(_ARITHMETIC, 30), "arithmetic-bound")]
    if largest_share:
        shares = [digit * 10.0**power for power in range(-9, 1) for digit in (1, 2, 5)]
        share = max(share for share in shares if share <= 0.6 * largest_share)
        hollow = {"facecolor": "none", "edgecolor": _LINE}
        entries.append((_circle(hollow, _LARGEST * share / largest_share), f"{100 * share:.3g}% of the time"))
    return entries


def _circle(colours: Style, area: float) -> Any:
    from matplotlib.lines import Line2D

    style: Style = {
        "markeredgecolor": colours["edgecolor"],
        "markerfacecolor": colours["facecolor"],
        "markeredgewidth": 0.4,
    }
    return Line2D([], [], linestyle="", marker="o", markersize=math.sqrt(area), **style)


# ---- what has no place in the roofline ----

_LINE_HEIGHT = 0.125  # inches
_TYPES = 3
_NO_BREAK = "\N{NO-BREAK SPACE}"


class _Rest(NamedTuple):
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
            axes.barh(line, share, 0.64, linewidth=0.4, gid="without products", **_MEMORY)
            for text in texts:
                _write(axes, text, (longest, line), (4, 0), va="center")
                line += 1


def _without_products(bound: TimeBound) -> _Rest:
    """Sum the layers without FLOPs by type, and name those among them that are of the network's heaviest."""
    heaviest = [id(each) for each in _heaviest(bound)]
    types: Dict[str, float] = {}
    names: Dict[str, List[str]] = {}
    for each in bound.layers:
        if each.seconds and not each.layer.flops:
            share = each.seconds / bound.seconds
            types[each.layer.type] = types.get(each.layer.type, 0.0) + share
            if id(each) in heaviest:
                names.setdefault(each.layer.type, []).append(f"{_name(each.layer)}{_NO_BREAK}{share:.1%}")
    ranked = sorted(types, key=lambda type: types[type], reverse=True)
    shown = [type for i, type in enumerate(ranked) if i < _TYPES or type in names or len(ranked) == _TYPES + 1]
    rows = [(types[type], f"{type} ({', '.join(names[type])})" if type in names else type) for type in shown]
    if len(shown) < len(ranked):
        others = math.fsum(types[type] for type in ranked if type not in shown)
        rows.append((others, f"{len(ranked) - len(shown)} other type" + "s" * (len(ranked) - len(shown) > 1)))
    return _Rest([(share, _wrapped(f"{share:.1%} {text}")) for share, text in rows])


def _wrapped(text: str) -> List[str]:
    lines = textwrap.wrap(text, 42, subsequent_indent="   ", break_on_hyphens=False)
    return [line.replace(_NO_BREAK, " ") for line in lines]


# ---- profile along the network ----

_BARS = 60
_FEWEST = 8  # fewer bars are not drawn wider
_LONGEST_LABEL = 20
_LETTER, _UPRIGHT = 4.5, 8.0  # points along the axis that a letter takes, and a whole name that stands upright


class _Bar(NamedTuple):
    """A layer, or a module with all that is in it; accesses in elements."""

    path: str
    kernel: float
    output: float


class _Profile(NamedTuple):
    """The bars, which of them are labelled and how, and what stands below that."""

    bars: List[_Bar]
    labels: Dict[int, str]
    upright: bool
    what: str

    @property
    def below(self) -> float:
        """Inches that the labels take below the axes."""
        text = 0.06 * max(map(len, self.labels.values()), default=0) + 0.05 if self.upright else 0.13
        return 0.12 + text + 0.12 * (1 + self.what.count("\n"))

    def draw(self, axes: "Axes") -> None:
        """Draw the bars, the kernel's part below the output's."""
        kernel, output = [bar.kernel / 1e6 for bar in self.bars], [bar.output / 1e6 for bar in self.bars]
        places, width = range(len(self.bars)), 0.8 if len(self.bars) <= 2 * _BARS else 1.0
        kernels = axes.bar(places, kernel, width, color=_KERNEL, gid="kernel")
        outputs = axes.bar(places, output, width, bottom=kernel, color=_OUTPUT, gid="output")
        spare = max(0, _FEWEST - len(self.bars)) / 2
        axes.set_xlim(-0.7 - spare, len(self.bars) - 0.3 + spare)
        axes.set_ylim(bottom=0)
        axes.set_xticks(list(self.labels))
        axes.set_xticklabels(list(self.labels.values()), rotation=90 if self.upright else 0)
        axes.set_xlabel(self.what)
        axes.set_ylabel("accesses (M)")
        axes.grid(True, axis="y")
        _head(
            axes,
            "Accesses along the network",
            [(kernels, "kernel (weights read)"), (outputs, "output (elements written)")],
        )
        if not self.bars:
            axes.text(0.5, 0.5, "no layer has accesses", ha="center", va="center", transform=axes.transAxes)


def _profile(traffic: Traffic, width: float) -> _Profile:
    """Lay out the bars of a network in so many inches."""
    layers = _in_order(traffic)
    bars = _bars(layers)
    what = "layers" if len(bars) == len(layers) else "modules"
    if len(bars) > 1:
        what += f" {_cut(bars[0].path, 18)} to {_cut(bars[-1].path, 18)}, in the order of execution"
    if len(bars) < len(layers):
        what += "\n(a bar is a module with all that is in it)"
    return _Profile(bars, *_bar_labels([bar.path.split(".") for bar in bars], width * 72), what)


def _bar_labels(paths: Sequence[List[str]], width: float) -> Tuple[Dict[int, str], bool]:
    """Label as many bars as there is room for in so many points; return the labels and whether they stand upright.

    What all paths begin with is left out. Where there is no room for all, the first bar of each module is labelled
    with the module's path, and not all of those if they are still too many.
    """
    shared = 0
    while len(paths) > 1 and len({path[shared] for path in paths}) == 1 and min(map(len, paths)) > shared + 1:
        shared += 1
    names = [_cut(".".join(path[shared:]), _LONGEST_LABEL) for path in paths]
    pitch, longest = width / max(len(names), _FEWEST), max(map(len, names), default=0)
    if longest <= 3 or (longest + 1) * _LETTER < pitch:
        step = math.ceil((longest + 1) * _LETTER / pitch)
        return {i: names[i] for i in range(0, len(names), step)}, False
    labels = dict(enumerate(names))
    depth = max(map(len, paths))
    while len(labels) * _UPRIGHT > width and depth > shared + 1:
        depth -= 1
        beginnings = [_cut(".".join(path[shared:depth]), _LONGEST_LABEL) for path in paths]
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
        if len(bars) <= _BARS:
            break
    return list(bars.values())


__all__ = ["SUFFIXES", "Point", "comparison_figure", "network_figure", "save_figure"]
