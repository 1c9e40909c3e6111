"""The pictures: what they show is read back from the figures, and counted a second time from the calls."""

from __future__ import annotations

import itertools
import math
import os
import random
import re
import struct
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
import torchvision
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from releases import ROOT, run_python
from torch import Tensor, nn

from utils.thop import profile, traffic
from utils.thop.deploy.bound import time_bound
from utils.thop.deploy.devices import Device, find_device
from utils.thop.show.network_plot import network_figure
from utils.thop.show.plots import SUFFIXES, Point, comparison_figure, save_figure
from utils.thop.traffic import Traffic


class Backwards(nn.Module):
    """Layers that run in another order than they are written, one of them twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(8, 4, 1)
        self.never = nn.Conv2d(1, 1, 1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.twice(self.twice(self.first(x))))


class TwoPrecisions(nn.Module):
    """Most of its FLOPs in half precision, some in single."""

    def __init__(self) -> None:
        super().__init__()
        self.single = nn.Conv2d(3, 64, 3, padding=1)
        self.half_ = nn.Conv2d(64, 256, 3, padding=1).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.half_(self.single(x).half())


def many_types() -> nn.Module:
    """The heaviest layer is the only one of its type, which others outweigh together."""
    six = [layer for _ in range(6) for layer in (nn.BatchNorm2d(3), nn.ReLU(), nn.SiLU())]
    return nn.Sequential(*six, nn.Sigmoid(), nn.Upsample(scale_factor=2))


SMALL = torch.zeros(1, 3, 64, 64)


@pytest.fixture(name="counted", scope="module")
def counted_models(yolo: Any) -> Callable[[str], Traffic]:
    builders: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
        "yolov5s": lambda: (yolo("yolov5s.yaml"), torch.zeros(1, 3, 640, 640)),
        "yolov5s in half": lambda: (yolo("yolov5s.yaml").half(), torch.zeros(1, 3, 640, 640).half()),
        "resnet18": lambda: (torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224)),
        "without FLOPs": lambda: (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), SMALL),
        "many types": lambda: (many_types(), SMALL),
        "one layer": lambda: (nn.Conv2d(3, 8, 3), SMALL),
        "backwards": lambda: (Backwards(), SMALL),
        "two precisions": lambda: (TwoPrecisions(), SMALL),
        "200 alike": lambda: (nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(200))), SMALL),
        "nothing": lambda: (nn.Identity(), SMALL),
    }
    found: dict[str, Traffic] = {}

    def count(name: str) -> Traffic:
        if name not in found:
            model, x = builders[name]()
            found[name] = traffic(model, (x,))
        return found[name]

    return count


class Case(NamedTuple):
    """A picture, and what it is of."""

    figure: Figure
    traffic: Traffic
    device: Device

    @property
    def roofline(self) -> Axes:
        return self.figure.axes[0]

    @property
    def bars(self) -> Axes:
        return self.figure.axes[1]

    @property
    def rest(self) -> Axes:
        """The strip of names, and of layers without FLOPs."""
        return self.figure.axes[2]


CASES = [
    ("yolov5s", "jetson-nano"),
    ("yolov5s", "rtx-3090"),
    ("yolov5s in half", "rtx-4090"),
    ("resnet18", "a100-80gb"),
    ("without FLOPs", "t4"),
    ("many types", "t4"),
    ("one layer", "raspberry-pi-5"),
    ("backwards", "jetson-orin-nano"),
    ("two precisions", "a100-40gb"),
    ("200 alike", "h100"),
    ("nothing", "t4"),
]


@pytest.fixture(name="drawn", scope="module")
def drawn_figures(counted: Callable[[str], Traffic]) -> Callable[[str, str], Case]:
    found: dict[tuple[str, str], Case] = {}

    def draw(name: str, device: str) -> Case:
        if (name, device) not in found:
            moved, on = counted(name), find_device(device)
            found[name, device] = Case(network_figure(name, moved, time_bound(moved, on)), moved, on)
        return found[name, device]

    return draw


@pytest.fixture(name="case", params=CASES, ids=[f"{name} on {device}" for name, device in CASES])
def each_case(request: pytest.FixtureRequest, drawn: Callable[[str, str], Case]) -> Case:
    return drawn(*request.param)


class Seen(NamedTuple):
    """A layer as it is reckoned from the calls alone."""

    path: str
    type: str
    flops: int
    bytes: int
    seconds: float
    memory_seconds: float


def layers_by_calls(case: Case) -> list[Seen]:
    """Add up the calls of each layer, with the roofline's formula."""
    found: dict[int, Seen] = {}
    for call in case.traffic.calls:
        before = found.get(id(call.layer), Seen(call.layer.path, call.layer.type, 0, 0, 0, 0))
        peak = case.device.peaks[str(call.dtype).split(".")[1]] if call.flops else math.inf
        moving, reckoning = call.bytes / case.device.bandwidth, call.flops / peak
        found[id(call.layer)] = Seen(
            before.path,
            before.type,
            before.flops + call.flops,
            before.bytes + call.bytes,
            before.seconds + max(moving, reckoning),
            before.memory_seconds + (moving if moving >= reckoning else 0),
        )
    return list(found.values())


def offsets(axes: Axes, gid: str) -> tuple[list[tuple[float, float]], list[float]]:
    """Places and sizes of the marks of one kind."""
    marks: Any
    (marks,) = [collection for collection in axes.collections if collection.get_gid() == gid]
    return [(float(x), float(y)) for x, y in marks.get_offsets()], [float(size) for size in marks.get_sizes()]


def lines(axes: Axes, gid: str) -> list[list[tuple[float, float]]]:
    found: list[Any] = [line.get_data() for line in axes.lines if line.get_gid() == gid]
    return [list(zip(*each)) for each in found]


def bars(axes: Axes, gid: str) -> list[Any]:
    return [patch for patch in axes.patches if patch.get_gid() == gid]


def texts(figure: Figure) -> Iterator[Text]:
    """Every text that is seen."""
    for axes in figure.axes:
        ticks = []
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            ticks += [axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title]  # type: ignore[attr-defined]
        yield from (text for text in (*axes.texts, *ticks) if text.get_text())
        yield from legend_texts(axes)
    yield from figure.texts


def legend_texts(axes: Axes) -> list[Text]:
    legend = axes.get_legend()
    return legend.get_texts() if legend else []


def words(artists: Any) -> str:
    return "\n".join(text.get_text() for text in artists)


def names_in(axes: Axes) -> list[str]:
    """The names beside marks, and what is written beside the ceilings."""
    return [line for text in axes.texts for line in text.get_text().split("\n") if line]


def numbers_in(axes: Axes) -> list[str]:
    """The numbers beside marks."""
    return [text for text in names_in(axes) if re.fullmatch(r"\d+(, \d+)*", text)]


def strip(case: Case) -> tuple[list[str], list[str], list[str]]:
    """What stands below the roofline: names of marks with numbers, of heavy layers without, and types without FLOPs."""
    said = [text.get_text() for text in case.rest.texts]
    numbered = [row.split("  ", 1) for row in said if re.match(r"\d+  ", row)]
    assert [number for number, _ in numbered] == [str(i + 1) for i in range(len(numbered))]
    rest = [row for row in said if row.startswith(("Without products", "    "))]
    return [name for _, name in numbered], [row[3:] for row in said if row.startswith("\N{EN DASH}")], rest


# ---- roofline ----


def test_each_layer_with_flops_stands_where_it_belongs(case: Case) -> None:
    seen = [s for s in layers_by_calls(case) if s.flops]
    shown = {binds: offsets(case.roofline, f"{binds}-bound") for binds in ("memory", "arithmetic")}
    largest = max([size for _, sizes in shown.values() for size in sizes], default=1)
    heaviest = max([s.seconds for s in seen], default=1)
    for binds, (places, sizes) in shown.items():
        layers = [s for s in seen if (2 * s.memory_seconds >= s.seconds) == (binds == "memory")]
        expected = [(s.flops / s.bytes, s.flops / s.seconds, s.seconds / heaviest) for s in layers]
        found = [(x, y, size / largest) for (x, y), size in zip(places, sizes)]
        assert len(found) == len(expected)
        np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-9)


def test_no_layer_is_above_the_ceilings(case: Case) -> None:
    for binds in ("memory", "arithmetic"):
        for x, y in offsets(case.roofline, f"{binds}-bound")[0]:
            ceilings = [points for gid in ("bandwidth", "peak") for points in lines(case.roofline, gid)]
            assert y <= max(points[-1][1] for points in ceilings) * (1 + 1e-9)
            assert y <= x * case.device.bandwidth * (1 + 1e-9)
            (left, right), (bottom, top) = case.roofline.get_xlim(), case.roofline.get_ylim()
            assert left < x < right and bottom < y < top


@pytest.mark.parametrize(
    ("name", "device", "precision", "peak", "bandwidth"),
    [
        ("yolov5s", "jetson-nano", "float32", 0.236e12, 25.6e9),
        ("yolov5s in half", "rtx-4090", "float16", 330.3e12, 1008e9),
        ("without FLOPs", "t4", "float32", 8.1e12, 320e9),
    ],
)
def test_the_ceilings_are_those_of_the_device(
    drawn: Any, name: str, device: str, precision: str, peak: float, bandwidth: float
) -> None:
    axes = drawn(name, device).roofline
    (slope,), (flat,), (ridge,) = (lines(axes, gid) for gid in ("bandwidth", "peak", "ridge"))
    for x, y in slope + flat:
        assert y == pytest.approx(min(peak, x * bandwidth))
    assert slope[0][0] == axes.get_xlim()[0] and flat[-1][0] == axes.get_xlim()[1]
    assert slope[-1] == flat[0] == ridge[1] == pytest.approx((peak / bandwidth, peak))
    assert ridge[0] == pytest.approx((peak / bandwidth, axes.get_ylim()[0]))
    legend = words(legend_texts(axes)).split("\n")
    assert f"ridge at {peak / bandwidth:.3g} FLOP/byte" in legend
    scale, unit = (1e12, "T") if peak > 1e12 else (1e9, "G")
    assert f"peak {peak / scale:.3g} {unit}FLOP/s, {precision}" in legend
    scale, unit = (1e12, "T") if bandwidth > 1e12 else (1e9, "G")
    assert f"bandwidth {bandwidth / scale:.3g} {unit}B/s" in legend
    assert axes.get_ylabel() == f"attainable performance ({'T' if peak > 1e12 else 'G'}FLOP/s)"
    assert axes.get_xlabel() == "arithmetic intensity (FLOP/byte)"
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.yaxis.get_major_formatter()(peak) == f"{peak / (1e12 if peak > 1e12 else 1e9):g}"


def test_the_ridge_is_that_of_the_precision_with_most_flops(drawn: Any) -> None:
    case = drawn("two precisions", "a100-40gb")
    assert sum(s.flops for s in layers_by_calls(case) if s.path == "half_") > case.traffic.flops / 2
    main, other = lines(case.roofline, "peak")
    assert main[0] == pytest.approx((312e12 / 1555e9, 312e12)) and main[1][1] == 312e12
    assert other[0] == pytest.approx((19.5e12 / 1555e9, 19.5e12)) and other[1][1] == 19.5e12
    assert lines(case.roofline, "ridge")[0][0][0] == main[0][0]
    assert {"peak 312 TFLOP/s, float16", "peak 19.5 TFLOP/s, float32"} < set(
        words(legend_texts(case.roofline)).split("\n")
    )


def test_the_five_heaviest_layers_are_named(case: Case) -> None:
    seen = sorted((s for s in layers_by_calls(case) if s.seconds), key=lambda s: s.seconds, reverse=True)
    total = sum(s.seconds for s in seen)
    above, others, _ = strip(case)
    title: Any = case.roofline._left_title  # type: ignore[attr-defined]
    missing = re.search(r"(\d) of the \d heaviest without a number", title.get_text())
    shown = sum(len(text.split(", ")) for text in numbers_in(case.roofline))
    assert shown == len(above) - int(missing[1] if missing else 0)

    def is_named(s: Seen) -> bool:
        name = s.path if re.search("[a-z]", s.path) else f"{s.type} {s.path}".strip()
        return f"{name} {s.seconds / total:.1%}" in (above if s.flops else others)

    named = [s for s in seen if is_named(s)]
    assert len(named) == min(5, len(seen))
    if seen:
        least = seen[len(named) - 1].seconds
        assert {s for s in seen if s.seconds > least * (1 + 1e-9)} <= set(named)
        assert all(s.seconds >= least * (1 - 1e-9) for s in named)


def test_layers_without_flops_stand_below_with_their_share(case: Case) -> None:
    seen = layers_by_calls(case)
    total = sum(s.seconds for s in seen)
    shares: dict[str, float] = {}
    for s in seen:
        if not s.flops and s.seconds:
            shares[s.type] = shares.get(s.type, 0) + s.seconds / total
    if not shares:
        assert not strip(case)[2]
        return
    heading, *rows = strip(case)[2]
    assert heading == f"Without products (0 FLOP/byte): {sum(shares.values()):.1%} of the time"
    assert sum(float(row.split("%")[0]) for row in rows) == pytest.approx(100 * sum(shares.values()), abs=0.3)
    ranked = sorted(shares, key=lambda kind: shares[kind], reverse=True)
    for kind in ranked[:4]:
        assert f"    {shares[kind]:.1%} {kind}" in rows


def test_the_title_says_what_it_is_of(drawn: Any) -> None:
    case = drawn("yolov5s", "rtx-3090")
    bound = time_bound(case.traffic, case.device)
    title, subtitle = words(case.figure.texts).split("\n")
    share = f"{bound.memory_seconds / bound.seconds:.0%}"
    time = f"{float(f'{bound.seconds * 1e3:.3g}'):g} ms"
    assert title == "yolov5s"
    assert subtitle == f"NVIDIA GeForce RTX 3090: at least {time}, {share} of that bound by memory"


# ---- accesses along the network ----


def test_bars_sum_to_the_totals(case: Case) -> None:
    kernel, output = bars(case.bars, "kernel"), bars(case.bars, "output")
    assert len(kernel) == len(output) and (len(kernel) <= 60 or len(kernel) == len(case.traffic.layers) - 1)
    totals = [sum(bar.get_height() for bar in each) * 1e6 for each in (kernel, output)]
    expected = [sum(row.kernel for row in case.traffic.layers), sum(row.output for row in case.traffic.layers)]
    assert totals == pytest.approx(expected)
    for below, above in zip(kernel, output):
        assert below.get_y() == 0 and above.get_y() == below.get_height() and above.get_x() == below.get_x()
    assert case.bars.get_ylabel() == "accesses (M)"
    assert words(legend_texts(case.bars)) == "kernel (weights read)\noutput (elements written)"


def test_bars_of_yolov5_are_its_blocks(yolo: Any, drawn: Any) -> None:
    axes = drawn("yolov5s", "jetson-nano").bars
    tree = profile(yolo("yolov5s.yaml"), (torch.zeros(1, 3, 640, 640),), verbose=False, ret_layer_info=True)[4]
    blocks = {name: row for name, row in tree["model"][4].items() if row[2] or row[3]}
    assert len(blocks) == 21  # of 25: a Concat is no layer with accesses
    heights = [[bar.get_height() * 1e6 for bar in bars(axes, gid)] for gid in ("kernel", "output")]
    assert heights[0] == pytest.approx([row[2] for row in blocks.values()])
    assert heights[1] == pytest.approx([row[3] for row in blocks.values()])
    for place, label in zip(axes.get_xticks(), axes.get_xticklabels()):
        assert f"model.{list(blocks)[int(place)]}" == label.get_text()
    assert axes.get_xlabel() == "modules, each with all that is in it, in the order of execution"


def test_bars_come_in_the_order_of_execution(drawn: Any) -> None:
    axes = drawn("backwards", "jetson-orin-nano").bars
    assert [label.get_text() for label in axes.get_xticklabels()] == ["first.0", "first.1", "twice", "last"]
    assert [bar.get_height() for bar in bars(axes, "kernel")] == [216e-6, 0, 2 * 576e-6, 32e-6]
    assert axes.get_xlabel() == "layers in the order of execution"


def test_a_layer_too_many_makes_bars_of_modules() -> None:
    sixty: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(30)]
    for model, shown in ((nn.Sequential(*sixty), 60), (nn.Sequential(*sixty, nn.ReLU()), 31)):
        moved = traffic(model, (SMALL,))
        axes = network_figure("blocks", moved, time_bound(moved, find_device("t4"))).axes[1]
        assert len(bars(axes, "output")) == shown


def test_a_depth_makes_bars_of_its_modules(yolo: Any) -> None:
    moved = traffic(yolo("yolov5s.yaml").fuse(), (torch.zeros(1, 3, 640, 640),))
    bound = time_bound(moved, find_device("t4"))
    for depth, shown in ((None, 56), (1, 21)):
        axes = network_figure("yolov5s", moved, bound, depth=depth).axes[1]
        assert len(bars(axes, "output")) == shown
        first = axes.get_xticklabels()[0].get_text()
        assert first == ("model.0" if depth else "model.0.conv") and axes.get_xlabel().startswith("modules, ")


# ---- how it looks ----


def extents(figure: Figure, artists: list[Text]) -> list[list[float]]:
    """Left, bottom, right, top of each text as it is drawn, in points."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    return [
        [float(edge) * 72 / figure.dpi for edge in Text.get_window_extent(each, renderer).extents] for each in artists
    ]


def overlap(one: list[float], other: list[float]) -> float:
    """The smaller side, in points, of what two boxes have in common; 0 if they have nothing."""
    return max(0.0, min(min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])))


def check_texts(figure: Figure) -> None:
    """No text covers another, is cut off by the edge, or is too small to read."""
    figure.canvas.draw()
    shown = list(texts(figure))
    width, height = figure.get_size_inches() * 72
    boxes = extents(figure, shown)
    for text, box in zip(shown, boxes):
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height, (text.get_text(), box)
        assert float(text.get_fontsize()) >= 7, text.get_text()
    straight = [(t, b) for t, b in zip(shown, boxes) if t.get_rotation() in (0, 90)]
    for (text, box), (other, other_box) in itertools.combinations(straight, 2):
        assert overlap(box, other_box) < 0.5, (text.get_text(), other.get_text())
    for slanted, box in ((t, b) for t, b in zip(shown, boxes) if t.get_rotation() not in (0, 90)):
        for step in np.linspace(0.1, 0.9, 9):
            x, y = box[0] + step * (box[2] - box[0]), box[1] + step * (box[3] - box[1])
            for other, other_box in straight:
                assert not overlap([x - 2, y - 2, x + 2, y + 2], other_box), (slanted.get_text(), other.get_text())


def test_texts_keep_clear_of_each_other(case: Case) -> None:
    check_texts(case.figure)
    assert case.figure.get_size_inches()[0] == pytest.approx(7)
    frame = [edge * 72 / case.figure.dpi for edge in case.roofline.bbox.extents]
    for box in extents(case.figure, [text for text in case.roofline.texts if text.get_text()]):
        assert frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]


def luminance(colour: Any) -> float:
    """How light it is in grey, from 0 to 1 (ITU-R BT.601)."""
    red, green, blue = to_rgb(tuple(colour)[:3] if not isinstance(colour, str) else colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_colours_differ_in_grey(drawn: Any) -> None:
    case = drawn("yolov5s", "rtx-3090")
    marks = {each.get_gid(): each.get_facecolor()[0] for each in case.roofline.collections}
    assert abs(luminance(marks["memory-bound"]) - luminance(marks["arithmetic-bound"])) > 0.3
    kernel, output = (bars(case.bars, gid)[0].get_facecolor() for gid in ("kernel", "output"))
    assert abs(luminance(kernel) - luminance(output)) > 0.3


# ---- several models ----


def yolov5() -> list[Point]:
    """The ten models of the table in docs/figures.md, which a test of its own checks."""
    rows = re.findall(
        r"\| (yolov5\w+) \| \d+ \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|", (ROOT / "docs" / "figures.md").read_text("utf-8")
    )
    return [Point(name, float(gflops), float(accesses) * 1e6) for name, gflops, accesses in rows]


def scattered(count: int) -> list[Point]:
    """Models in heaps, as the variants of a few networks are."""
    draw = random.Random(count)
    centres = [(10 ** draw.uniform(0, 2), 10 ** draw.uniform(7, 9)) for _ in range(1 + count // 8)]
    chosen = [draw.choice(centres) for _ in range(count)]
    return [
        Point(f"variant-{i}-{'x' * (i % 9)}", x * draw.uniform(0.8, 1.25), y * draw.uniform(0.8, 1.25))
        for i, (x, y) in enumerate(chosen)
    ]


def alike(count: int) -> list[Point]:
    return [Point(f"same-{i}", 16.6 + i * 1e-4, 81.9e6) for i in range(count)]


SETS = {
    "one": yolov5()[:1], "two": yolov5()[:2], "yolov5": yolov5(), "ten": scattered(10), "ten alike": alike(10),
    "thirty": scattered(30), "hundred": scattered(100), "no FLOPs": [Point("a", 0, 1e6), Point("b", 0, 5e7)],
    "none": [],
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_models_stand_where_they_belong_and_names_keep_clear(name: str) -> None:
    points = SETS[name]
    figure = comparison_figure(points)
    axes, below = figure.axes
    places, sizes = offsets(axes, "models")
    assert places == [pytest.approx((point.gflops, point.accesses / 1e6)) for point in points]
    named = [number for text in names_in(axes) for number in text.split(", ")]
    assert len(set(named)) == len(named) and set(named) <= {str(i + 1) for i in range(len(points))}
    assert [text.get_text() for text in below.texts] == [f"{i}  {point.name}" for i, point in enumerate(points, 1)]
    missing = len(points) - len(named)
    told = f" ({missing} of {len(points)} models have no number)"
    assert axes.get_xlabel() == "GFLOPs" + told * bool(missing) and axes.get_ylabel() == "memory accesses (M)"
    assert len(named) >= {30: 27, 100: 55}.get(len(points), len(points))
    check_texts(figure)
    assert figure.get_size_inches()[0] == pytest.approx(3.4)
    frame = [edge * 72 / figure.dpi for edge in axes.bbox.extents]
    boxes = extents(figure, [text for text in axes.texts if text.get_text()])
    for box in boxes:
        assert frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
    radius = math.sqrt(sizes[0]) / 2 if sizes else 0
    for x, y in axes.transData.transform(places or [(1, 1)]) * 72 / figure.dpi:
        assert (frame[0] < x - radius and x + radius < frame[2] and frame[1] < y - radius) or not points
        mark = [x - radius, y - radius, x + radius, y + radius]
        assert not any(overlap(mark, box) for box in boxes)


@pytest.mark.parametrize(
    ("gflops", "scale"), [((1, 29), "linear"), ((1, 31), "log"), ((0, 100), "linear"), ((100, 101), "linear")]
)
def test_wide_ranges_are_logarithmic(gflops: tuple[float, ...], scale: str) -> None:
    axes, _ = comparison_figure([Point(f"m{i}", value, 1e6 * value) for i, value in enumerate(gflops)]).axes
    assert axes.get_xscale() == axes.get_yscale() == scale


def test_both_axes_are_linear_or_both_logarithmic() -> None:
    for accesses in (1e6, 31e6):
        axes, _ = comparison_figure([Point("a", 1, 1e6), Point("b", 1, accesses), Point("c", 2, accesses)]).axes
        assert axes.get_xscale() == axes.get_yscale() == ("log" if accesses > 1e6 else "linear")


def test_on_a_device_models_stand_by_their_time() -> None:
    points = [Point("small", 4.5, 28e6, 4.8e-3, 3e-3, 7e-3), Point("large", 16.4, 58e6, 8.1e-3, 6e-3, 11e-3)]
    figure = comparison_figure(points, ["input 1x3x640x640, float16", "t4, TensorRT, float16"])
    axes, _ = figure.axes
    assert offsets(axes, "models")[0] == [pytest.approx((4.5, 4.8)), pytest.approx((16.4, 8.1))]
    assert axes.get_ylabel() == "ms, with the range of nine of ten"
    assert axes.get_title("left") == "input 1x3x640x640, float16\nt4, TensorRT, float16"
    assert axes.get_ylim()[1] > 11
    check_texts(figure)


# ---- files ----


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_are_what_their_names_say(drawn: Any, tmp_path: Path, suffix: str) -> None:
    figure = drawn("yolov5s", "rtx-3090").figure
    path = tmp_path / f"yolov5s{suffix.upper()}"
    save_figure(figure, path)
    content = path.read_bytes()
    if suffix == ".png":
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", content[16:24]) == tuple((figure.get_size_inches() * 300).astype(int))
    elif suffix == ".pdf":
        assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    else:
        root = ElementTree.fromstring(content)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        written = ["".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text")]
        for text in texts(figure):
            for line in text.get_text().split("\n"):
                assert line.strip() in written
    save_figure(figure, str(tmp_path / f"again{suffix}"))
    assert (tmp_path / f"again{suffix}").read_bytes() == content


@pytest.mark.parametrize("name", ["picture", "picture.jpg", "picture.png.txt"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^\S*{name}: the name of a picture must end in \.png, \.svg or \.pdf$"):
        save_figure(Figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        save_figure(Figure(), tmp_path / "missing" / "picture.png")


# ---- the user's matplotlib ----


DRAW = """
import torch
from torch import nn
from utils.thop import traffic
from utils.thop.deploy.bound import time_bound
from utils.thop.deploy.devices import find_device
from utils.thop.show.network_plot import network_figure
from utils.thop.show.plots import Point, comparison_figure, save_figure
moved = traffic(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), (torch.zeros(1, 3, 64, 64),))
save_figure(network_figure("three", moved, time_bound(moved, find_device("t4"))), f"{folder}/network.svg")
points = [Point(f"model-{i}", 5 + i % 3, 1e7 + 1e4 * i) for i in range(12)]
save_figure(comparison_figure(points), f"{folder}/comparison.png")
"""


def draw_both(folder: Path) -> list[bytes]:
    exec(DRAW, {"folder": folder})
    return [(folder / name).read_bytes() for name in ("network.svg", "comparison.png")]


def test_settings_of_the_user_do_not_matter_and_do_not_change(tmp_path: Path) -> None:
    plain = draw_both(tmp_path)
    odd: Any = {
        "font.size": 20, "figure.dpi": 50, "savefig.dpi": 50, "savefig.bbox": "tight", "axes.facecolor": "black",
        "text.color": "red", "lines.linewidth": 9, "svg.fonttype": "path", "axes.grid": True, "font.family": "serif",
        "axes.formatter.limits": [-1, 1], "legend.fontsize": 30, "figure.constrained_layout.use": True,
    }  # fmt: skip
    with matplotlib.rc_context(odd):
        before = dict(matplotlib.rcParams)
        assert draw_both(tmp_path) == plain
        assert dict(matplotlib.rcParams) == before


def test_no_display_and_no_pyplot_is_needed(tmp_path: Path) -> None:
    plain = draw_both(tmp_path)
    script = f"""
import sys
import utils.thop.show.network_plot
import utils.thop.show.plots
assert "matplotlib" not in sys.modules
import matplotlib
before = dict(matplotlib.rcParams)
exec({DRAW!r}, {{"folder": {str(tmp_path)!r}}})
assert dict(matplotlib.rcParams) == before
assert "matplotlib.pyplot" not in sys.modules
"""
    env = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    run_python(["-c", script], ROOT, {**env, "PYTHONHASHSEED": "7", "MPLBACKEND": "TkAgg"}, fresh=True)
    assert [(tmp_path / name).read_bytes() for name in ("network.svg", "comparison.png")] == plain
