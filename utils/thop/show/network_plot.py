"""One network on a page: the roofline of its layers on a device, and beside it its accesses along the way.

The roofline is after Williams, Waterman and Patterson (Communications of the ACM, April 2009).
"""

import math
import textwrap
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from ..count.calls import LayerRow
from ..deploy.bound import LayerBound, TimeBound
from ..deploy.devices import Device
from ..traffic import Traffic
from ..units import dtype_name
from .plots import (
    ARITHMETIC,
    COLUMN,
    INK,
    KERNEL,
    LINE,
    MEMORY,
    OUTPUT,
    Mark,
    Part,
    Style,
    draw_along,
    end_of,
    in_units,
    layer_name,
    log_axis,
    new_figure,
    number_marks,
    own_settings,
    write_above,
    write_lines,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 2.9  # inches of the roofline


def network_figure(
    name: str, traffic: Traffic, bound: TimeBound, said: Sequence[str] = (), depth: Optional[int] = None
) -> "Figure":
    """Draw a network's roofline on the device of ``bound``, and beside it its accesses in the order of execution.

    In the roofline a layer stands at its arithmetic intensity (FLOPs per byte of its own operators) and the FLOPs a
    second that its bound allows; its area is its share of the bounded time. The heaviest have numbers, and their names
    below, with the types of layers that have no FLOPs, and so no place on such an axis. On the right a bar is a layer,
    or a module with all that is in it where there would be more than 60 bars.

    said: what is expected of the network on the device, as it is deployed there, which stands in place of the bound of
    what was counted; depth: levels of modules that have bars, as of the table.
    """
    lines = _below(bound)
    with own_settings():
        height = LINE * (len(lines) + 3)
        figure = new_figure(2 * COLUMN + 0.2, _HEIGHT + height)
        grid = figure.add_gridspec(2, 2, height_ratios=(_HEIGHT, height))
        roofline, bars, strip = (figure.add_subplot(grid[place]) for place in ((0, 0), (slice(None), 1), (1, 0)))
        _draw_accesses(bars, traffic, COLUMN - 0.5, depth)
        write_lines(strip, lines, len(lines))
        words = [text.partition(";")[0] for text in said] or [_at_least(bound)]
        words[1:] = [text.replace(f"{bound.device.title}: ", "") for text in words[1:]]
        write_above(figure, end_of(name, 70), "; ".join(words))
        _draw_roofline(roofline, bound, _peaks(traffic, bound.device))
    return figure


def _at_least(bound: TimeBound) -> str:
    device = textwrap.shorten(bound.device.title, 70, placeholder="..")
    if not bound.seconds:
        return f"{device}: nothing is moved"
    memory = bound.memory_seconds / bound.seconds
    return f"{device}: at least {in_units(bound.seconds)}s, {memory:.0%} of that bound by memory"


def accesses_figure(title: str, traffic: Traffic) -> "Figure":
    """Draw a network's accesses in the order of execution, as on the right of ``network_figure``."""
    with own_settings():
        figure = new_figure(2 * COLUMN, 3.4)
        write_above(figure, title)
        _draw_accesses(figure.add_subplot(), traffic, 2 * COLUMN - 0.5)
        figure.tight_layout(pad=0.5)
    return figure


# ---- roofline ----

_LARGEST = 130.0  # square points
_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("", 0.0))


def _heaviest(bound: TimeBound) -> List[LayerBound]:
    """Those of the heaviest layers that take any time."""
    return [each for each in bound.heaviest() if each.seconds]


def _draw_roofline(axes: "Axes", bound: TimeBound, peaks: Dict[str, float]) -> None:
    """Draw the ceilings of the device, and each layer with FLOPs; of the heaviest, those have numbers."""
    layers = [each for each in bound.layers if each.layer.flops and each.seconds]
    largest = max((each.seconds for each in layers), default=1.0)
    places = {
        id(each): Mark(
            each.layer.intensity,
            each.layer.flops / each.seconds,
            math.sqrt(_LARGEST * each.seconds / largest) / 2,
        )
        for each in layers
    }
    _draw_ceilings(axes, list(places.values()), peaks, bound.device.bandwidth)
    for binds, colours in (("memory", MEMORY), ("arithmetic", ARITHMETIC)):
        marks = [places[id(each)] for each in layers if each.binds == binds]
        areas, edges = [(2 * mark.radius) ** 2 for mark in marks], [min(0.4, mark.radius / 6) for mark in marks]
        axes.scatter([mark.x for mark in marks], [mark.y for mark in marks], s=areas, linewidths=edges, zorder=3,
                     gid=f"{binds}-bound", label=f"{binds}-bound, area: time", **colours)  # fmt: skip
    numbered = [places.pop(id(each)) for each in _heaviest(bound) if id(each) in places]
    axes.legend(loc="lower right", markerscale=0.6)
    missing = number_marks(axes, numbered, list(places.values()))
    more = f" ({missing} of the {len(numbered)} heaviest without a number)" if missing else ""
    axes.set_title("Roofline" + more if layers else "Roofline: no layer computes products", loc="left", weight="bold")


def _peaks(traffic: Traffic, device: Device) -> Dict[str, float]:
    """The device's peaks in the precisions that are used, that of most FLOPs first; if none is, the first it has."""
    flops: Dict[Any, int] = {}
    for call in traffic.calls:
        if call.flops and call.dtype is not None:
            flops[call.dtype] = flops.get(call.dtype, 0) + call.flops
    used = sorted(flops, key=lambda dtype: flops[dtype], reverse=True)
    peaks = {dtype_name(dtype): device.peak(dtype) for dtype in used}
    return peaks or dict(list(device.peaks.items())[:1])


def _draw_ceilings(axes: "Axes", marks: Sequence[Mark], peaks: Dict[str, float], bandwidth: float) -> None:
    """Draw the bandwidth, the peak, the ridge between them, and thinly the peak of any other precision.

    All marks are shown, and enough of the ceilings to see what they are.
    """
    main, highest = next(iter(peaks.values())), max(peaks.values())
    ridges = [peak / bandwidth for peak in peaks.values()]
    left = min([mark.x for mark in marks] + [ridge / 5 for ridge in ridges]) / 1.6
    right = max([mark.x for mark in marks] + [ridge * 5 for ridge in ridges]) * 1.6
    bottom = min([mark.y for mark in marks] + [bandwidth * left]) / 1.3
    prefix, unit = next((prefix, unit) for prefix, unit in _UNITS if highest >= unit)
    log_axis(axes, "x", left, right)
    log_axis(axes, "y", bottom, highest * 1.6, unit)
    axes.set_xlabel("arithmetic intensity (FLOP/byte)")
    axes.set_ylabel(f"attainable performance ({prefix}FLOP/s)")
    thick: Style = {"color": INK, "linewidth": 1}
    thin: Style = {"color": INK, "linewidth": 0.6, "linestyle": (0, (4, 3))}
    ridge, top, slope = main / bandwidth, highest / bandwidth, f"bandwidth {in_units(bandwidth)}B/s"
    axes.plot((left, top), (bandwidth * left, highest), gid="bandwidth", label=slope, **thick)
    for peak in sorted(set(peaks.values()), key=lambda peak: (peak != main, peak)):
        named = f"peak {in_units(peak)}FLOP/s, {', '.join(one for one in peaks if peaks[one] == peak)}"
        axes.plot((peak / bandwidth, right), (peak, peak), gid="peak", label=named, **(thick if peak == main else thin))
    axes.plot((ridge, ridge), (bottom, main), gid="ridge", label=f"ridge at {ridge:.3g} FLOP/byte", **thin)


# ---- what stands below it: names, and what has no place in it ----

_TYPES = 4


def _below(bound: TimeBound) -> List[str]:
    """Name the heaviest layers, those with products by their number; and the types of those without, with shares."""
    heaviest, shares = (
        _heaviest(bound),
        {id(each): each.seconds / bound.seconds for each in bound.layers if each.seconds},
    )
    named = [(each, f"{layer_name(each.layer)} {shares[id(each)]:.1%}") for each in heaviest]
    lines = ["The heaviest layers: shares of the time"] if named else []
    lines += [f"{i}  {name}" for i, (_, name) in enumerate((one for one in named if one[0].layer.flops), 1)]
    lines += [f"\N{EN DASH}  {name}" for each, name in named if not each.layer.flops]
    types: Dict[str, float] = {}
    for each in bound.layers:
        if each.seconds and not each.layer.flops:
            types[each.layer.type] = types.get(each.layer.type, 0.0) + shares[id(each)]
    ranked = sorted(types.items(), key=lambda item: -item[1])
    if ranked:
        lines.append(f"Without products (0 FLOP/byte): {math.fsum(types.values()):.1%} of the time")
        lines += [f"    {share:.1%} {kind}" for kind, share in ranked[:_TYPES]]
    if len(ranked) > _TYPES:
        rest = math.fsum(share for _, share in ranked[_TYPES:])
        lines.append(f"    {rest:.1%} {len(ranked) - _TYPES} other type{'s' * (len(ranked) > _TYPES + 1)}")
    return lines


# ---- the accesses along the network ----

_MOST = 60


def _draw_accesses(axes: "Axes", traffic: Traffic, width: float, depth: Optional[int] = None) -> None:
    """Draw a bar for each layer or module in so many inches, the kernel's part below the output's."""
    layers = _in_order(traffic)
    bars = _bars(layers, depth)
    kernel, output = ([bar[i] / 1e6 for bar in bars.values()] for i in (0, 1))
    parts = Part("kernel (weights read)", KERNEL, kernel), Part("output (elements written)", OUTPUT, output)
    draw_along(axes, width, "Accesses along the network", "accesses (M)", list(bars), parts)
    what = "modules, each with all that is in it, " if len(bars) < len(layers) else "layers "
    axes.set_xlabel(f"{what}in the order of execution" if bars else "no layer has accesses")


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
        above = zip(*(layer.path.split(".")[:-1] for layer in layers))
        shared = takewhile(lambda names: len(set(names)) == 1, above)  # a level that tells nothing apart is none
        deepest = min(deepest, most + len(list(shared)))
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
