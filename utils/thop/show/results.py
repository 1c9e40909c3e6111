"""How each answer reads: as text of a few lines, as HTML, as a table of all its rows, as a picture."""

import json
import math
import textwrap
from dataclasses import dataclass, field, replace
from functools import partial, singledispatch
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence

from ..answer import finite, record_of
from ..deploy.calibration import Calibration
from ..deploy.changes import Advice
from ..deploy.choice import Choice
from ..deploy.launches import Deployed
from ..deploy.prediction import Prediction, Timing
from ..deploy.training import Training
from ..profile import Profile
from ..traffic import Traffic
from ..units import kinds_not_counted, readable, readable_bytes
from .choice import choice_figure, choice_grid, choice_headline
from .comparison import Comparison, grid_of_comparison, records, to_dataframe
from .grid import WIDTH, Column, Grid, Line, cut, heaviest, html_message, to_html, to_markdown, to_text
from .network_plot import accesses_figure
from .plots import Point, bars_figure, comparison_figure, save_figure, time_figure
from .predictions import (
    THE_MODEL,
    advice_grid,
    headline,
    memory_grid,
    remarks_on,
    time_grid,
    timing_headline,
    training_headline,
    usually_off,
)
from .report import ModelInfo, accesses, moved

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_FEW, _MANY = 10, 36  # rows of a text and of HTML
_PLACES = [Column("module", is_text=True), Column("type", is_text=True), Column("output shape"), Column("GFLOPs")]


@dataclass
class Sheet:
    """An answer laid out: a line that says it all, and its rows.

    grid: None where there is no table; records: the rows for machines; weights: what each line's importance is measured
    by, where not all are shown; draw: makes the picture; make_frame: makes the frame, where it is more than
    the records; few: what a text shows, where the answer itself says which rows.
    """

    caption: str
    grid: Optional[Grid]
    records: Sequence[Dict[str, Any]]
    totals: Dict[str, Any]
    draw: Callable[[], "Figure"]
    weights: Sequence[float] = field(default_factory=list)
    make_frame: "Optional[Callable[[], DataFrame]]" = None
    few: Optional[Grid] = None

    def shortened(self, grid: Grid, most: int) -> Grid:
        """The grid with its heaviest lines alone, in their order, and a word about the others."""
        lines = grid.lines
        if len(lines) <= most or self.few:
            return grid
        weights = self.weights or [0.0] * len(lines)
        kept, whole = heaviest(weights, most), sum(weights)
        share = f", {sum(weights[i] for i in kept) / whole:.0%} of it all" if whole else ""
        note = f"The {most} heaviest of {len(lines)} rows{share}; to_frame() has them all."
        return replace(grid, lines=[lines[i] for i in kept], notes=[note, *grid.notes])

    def text(self) -> str:
        """A few lines, for a prompt."""
        if self.grid is None:
            return self.caption
        return f"{textwrap.fill(self.caption, WIDTH)}\n{to_text(self.few or self.shortened(self.grid, _FEW))}"

    def html(self) -> str:
        """The same for a notebook, with more rows."""
        return to_html(self.shortened(self.grid, _MANY), self.caption) if self.grid else html_message(self.caption)

    def frame(self) -> "DataFrame":
        """All rows."""
        from pandas import DataFrame

        return DataFrame(list(self.records)) if self.make_frame is None else self.make_frame()

    def json(self) -> str:
        """Totals and all rows; what is no number is null."""
        return json.dumps(finite({"totals": self.totals, "rows": list(self.records)}), indent=1, allow_nan=False)

    def markdown(self) -> str:
        """All rows, for GitHub."""
        return f"{self.caption}\n\n{to_markdown(self.grid)}" if self.grid else self.caption

    def plot(self, path: Any = None) -> "Figure":
        """The picture, saved where a file is named."""
        figure = self.draw()
        if path is not None:
            save_figure(figure, path)
        return figure


@singledispatch
def sheet_of(answer: Any) -> Sheet:
    """Lay out an answer by its kind."""
    raise TypeError(f"nothing says how a {type(answer).__name__} reads")


def _name(path: str) -> str:
    return path or THE_MODEL


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


@sheet_of.register(ModelInfo)
def _info(found: ModelInfo) -> Sheet:
    few, grid = found.grids(_FEW)
    return Sheet(found.headline(), grid, (), {}, lambda: accesses_figure(found.headline(), found.traffic), few=few)


@sheet_of.register(Profile)
def _profile(found: Profile) -> Sheet:
    layers = found.layers
    gflops = f"{readable(found.total_ops)} multiply-accumulates ({found.total_ops * 2 / 1e9:.1f} GFLOPs)"
    words = [gflops, f"{readable(found.total_params)} parameters"]
    words.append(accesses(found.total_kernel_macs, found.total_output_macs))
    columns = [*_PLACES, Column("kernel", group="accesses"), Column("output", group="accesses")]

    def cells(ops: float, kernel: float, output: float) -> List[str]:
        return [f"{ops * 2 / 1e9:.3f}", readable(kernel), readable(output)]

    lines = [
        Line([_name(one.path), one.kind.__name__, _shape(one.output_shape), *cells(one.ops, one.kernel, one.output)])
        for one in layers
    ]
    total = ["total", "", "", *cells(found.total_ops, found.total_kernel_macs, found.total_output_macs)]
    rows = [
        {"path": each.path, "type": each.kind.__name__, "calls": each.calls, "output_shape": list(each.output_shape),
         "parameters": sum(each.parameters.values()), "ops": each.ops, "kernel": each.kernel, "output": each.output}
        for each in layers
    ]  # fmt: skip
    weights = [layer.kernel + layer.output for layer in layers]
    totals = {name: getattr(found, name) for name in _TOTALS}
    totals.update(missing=found.missing, only_moved=found.only_moved, mode=found.mode, why=found.why)
    draw = partial(bars_figure, "Memory accesses by layer", [_name(each.path) for each in layers], weights, "accesses")
    caption = " ".join(filter(None, [", ".join(words), kinds_not_counted(found.missing)]))
    return Sheet(caption, Grid(columns, lines, total), rows, totals, draw, weights)


_TOTALS = ("total_ops", "total_params", "total_kernel_macs", "total_output_macs")


@sheet_of.register(Traffic)
def _traffic(found: Traffic) -> Sheet:
    peak = f"{readable_bytes(found.peak_activation_bytes)} of activations at the peak"
    caption = f"{moved(found)}, {found.flops / 1e9:.1f} GFLOPs, {peak}"
    layers = [layer for layer in found.layers if layer.bytes or layer.flops]
    columns = [*_PLACES, *(Column(text, group="traffic") for text in ("read", "written")), Column("FLOPs/B")]

    def cells(one: Any, intensity: float) -> List[str]:
        sizes = readable_bytes(one.read_bytes), readable_bytes(one.written_bytes)
        return [f"{one.flops / 1e9:.3f}", *sizes, f"{intensity:.1f}"]

    lines = [Line([_name(row.path), row.type, _shape(row.output_shape), *cells(row, row.intensity)]) for row in layers]
    grid = Grid(columns, lines, ["total", "", "", *cells(found, found.arithmetic_intensity)])
    names = ("flops", "read_bytes", "written_bytes", "arithmetic_intensity", "peak_activation_bytes", "mode", "why")
    totals: Dict[str, Any] = {name: getattr(found, name) for name in names}
    totals["operators"] = [record_of(row) for row in found.operators]
    totals["uncounted"] = {name: {"calls": calls, "assumed": text} for name, (calls, text) in found.uncounted.items()}
    weights = [layer.bytes for layer in layers]
    rows = [record_of(row) for row in found.layers]
    return Sheet(caption, grid, rows, totals, partial(accesses_figure, caption, found), weights)


_ELEMENTS = {"weight_elements": "of weights", "read_elements": "read", "written_elements": "written"}


@sheet_of.register(Deployed)
def _deployed(found: Deployed) -> Sheet:
    def cells(one: Any) -> List[str]:
        return [f"{one.flops / 1e9:.3f}", *(readable(getattr(one, name)) for name in _ELEMENTS)]

    launches = found.launches
    sums = [f"{readable(getattr(found, name))} elements {what}" for name, what in _ELEMENTS.items()]
    caption = f"{len(launches)} launches under {found.runtime.title}: {found.flops / 1e9:.1f} GFLOPs, {', '.join(sums)}"
    columns = [Column("module", is_text=True), Column("operators", is_text=True), Column("GFLOPs")]
    columns += [Column(text, group="elements") for text in ("weights", "read", "written")]
    lines = [Line([_name(each.layers[0]), cut(" + ".join(each.operators), 32), *cells(each)]) for each in launches]
    total = ["total", "", *cells(found)]
    totals = {"runtime": found.runtime.name, "launches": len(launches), "flops": found.flops}
    totals.update({name: getattr(found, name) for name in _ELEMENTS})
    weights = [each.elements for each in launches]
    names = [_name(each.layers[0]) for each in launches]
    draw = partial(bars_figure, "Elements read and written by launch", names, weights, "elements")
    return Sheet(caption, Grid(columns, lines, total), list(map(record_of, launches)), totals, draw, weights)


@sheet_of.register(Timing)
def _timing(found: Timing) -> Sheet:
    numbers = {**record_of(found), "runtime": found.runtime.name}
    times = [Column(text, "ms") for text in ("time", "from", "to")]
    cells = [found.device, *(f"{value * 1e3:.3f}" for value in (found.seconds, found.low, found.high)), found.binds]
    draw = partial(bars_figure, timing_headline(found), [found.device], [found.seconds * 1e3], "ms")
    grid = Grid([Column("device", is_text=True), *times, Column("binds")], [Line(cells)])
    return Sheet(timing_headline(found), grid, [numbers], numbers, draw)


@sheet_of.register(Prediction)
def _prediction(found: Prediction) -> Sheet:
    layers = found.layers(2)
    grid = time_grid(found, layers, [f"From {found.basis}; {usually_off(found)}.", *remarks_on(found)])
    totals = {**record_of(found.timing()), "runtime": found.runtime.name}
    weights = [layer.seconds for layer in layers]
    rows = [{**record_of(one), **{f"seconds of {part}": s for part, s in one.parts.items()}} for one in found.layers()]
    return Sheet(headline(found), grid, rows, totals, partial(time_figure, "The network", found), weights)


@sheet_of.register(Training)
def _training(found: Training) -> Sheet:
    grid = memory_grid(found)
    totals = {name: value for name, value in record_of(found).items() if name != "kept_by_layer"}
    for name in ("forward", "loss", "backward", "optimizer", "validation"):
        totals[name] = record_of(getattr(found, name))
    kept = [{"path": path, "kept_bytes": size} for path, size in found.kept_by_layer]
    names = [line.cells[0] for line in grid.lines]
    sizes = [size / 1e6 for size in found.parts().values() if size]
    draw = partial(bars_figure, "Memory of a training step", names, sizes, "MB")
    caption = training_headline(f"A step of {found.batch} images" if found.batch != 1 else "A step of one image", found)
    return Sheet(caption, grid, kept, totals, draw)


@sheet_of.register(Calibration)
def _calibration(found: Calibration) -> Sheet:
    caption = (
        f"{found.name}: {len(found.rates)} network{'s' * (len(found.rates) != 1)} under {found.runtime.title}, "
        f"{found.precision}; nine of ten others lie within x {found.ranges[-1]:.2f}"
    )
    columns = [Column("network", is_text=True), Column("predicted / measured"), Column("GFLOP/s")]
    pairs = list(zip(found.ratios or [math.nan], found.rates))
    words = ["" if math.isnan(error) else f"{error:.2f}" for error, _ in pairs]
    lines = [Line([str(i), word, f"{rate / 1e9:.0f}"]) for i, (word, (_, rate)) in enumerate(zip(words, pairs), 1)]
    rows = [{"network": i, "predicted_to_measured": e, "flops_per_second": r} for i, (e, r) in enumerate(pairs, 1)]
    totals = {"name": found.name, "runtime": found.runtime.name, "precision": found.precision, "error": found.error}
    totals.update(found.constants._asdict())
    draw = partial(
        bars_figure,
        caption.partition(";")[0],
        [row.cells[0] for row in lines],
        [error for error, _ in pairs],
        "predicted / measured",
    )
    return Sheet(caption, Grid(columns, lines), rows, totals, draw)


@sheet_of.register(Comparison)
def _comparison(found: Comparison) -> Sheet:
    grid = grid_of_comparison(found.rows)
    names = [row.name for row in found.rows]
    caption = f"{len(names)} models side by side" if len(names) != 1 else names[0]
    table = partial(to_dataframe, found.rows)
    return Sheet(caption, grid, records(found.rows), {}, partial(_points, found), make_frame=table)


@sheet_of.register(Advice)
def _advice(found: Advice) -> Sheet:
    rows = [{**record_of(row), "cfg": row.cfg} for row in found.rows]
    draw = partial(bars_figure, headline(found.before), [row.what for row in found.rows],
                   [row.seconds * 1e3 for row in found.rows], "ms")  # fmt: skip
    totals = {**record_of(found.before.timing()), "runtime": found.before.runtime.name}
    return Sheet(headline(found.before), advice_grid(found), rows, totals, draw)


@sheet_of.register(Choice)
def _choice(found: Choice) -> Sheet:
    rows = [{name: value for name, value in record_of(row).items() if name != "timing"} for row in found.rows]
    totals = {
        "device": found.device,
        "limit_seconds": found.limit,
        "images_per_second": found.fps,
        "basis": found.basis,
    }
    few = choice_grid(found, _FEW)
    return Sheet(choice_headline(found), choice_grid(found), rows, totals, partial(choice_figure, found), few=few)


def _points(found: Comparison) -> "Figure":
    rows = [row for row in found.rows if row.traffic]
    points = []
    for row in rows:
        values, time = row.numbers(), row.prediction
        timing = (time.seconds, time.low, time.high) if time else ()
        points.append(Point(row.name, values["gflops"], values["accesses"], *timing))
    said = [" or ".join(dict.fromkeys(f"input {row.input}, {row.dtype}" for row in rows))] if rows else []
    times = [row.prediction for row in rows if row.prediction]
    said += dict.fromkeys(f"{time.device}, {time.runtime.title}, {time.precision}" for time in times)
    return comparison_figure(points, said)
