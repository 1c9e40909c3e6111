"""How each answer reads: as text of a few lines, as HTML, as a table of all its rows, as a picture."""

import math
import textwrap
from dataclasses import dataclass, field, replace
from functools import partial, singledispatch
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple

from ..answer import frame_of, json_of, record_of
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
from .comparison import Comparison, grid_of_comparison, records
from .grid import WIDTH, Column, Grid, cut, grid_of, heaviest, html_message, to_html, to_markdown, to_text
from .network_plot import accesses_figure
from .plots import Point, bars_figure, comparison_figure, save_figure, time_figure
from .predictions import (
    THE_MODEL,
    advice_grid,
    advice_text,
    headline,
    memory_grid,
    remarks_on,
    time_grid,
    timing_headline,
    training_headline,
    usually_off,
)
from .report import TOTALS, ModelInfo, accesses, moved, totals_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_FEW, _MANY = 10, 36  # rows of a text and of HTML
Draw = Callable[[], "Figure"]


@dataclass
class Sheet:
    """An answer laid out: a line that says it all, and its rows.

    grid: None where there is no table; records: the rows for machines; weights: what each line's importance is measured
    by, where not all are shown; few: what a text shows, where the answer itself says which rows.
    draw: makes the picture; without, it has a bar for each line, of ``bars`` or else the weights; label: of their axis.
    """

    caption: str
    grid: Optional[Grid]
    records: Sequence[Dict[str, Any]]
    totals: Dict[str, Any]
    draw: Optional[Draw] = None
    weights: Sequence[float] = field(default_factory=list)
    label: str = ""
    bars: Sequence[float] = field(default_factory=list)
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
        """All rows; columns of whole numbers stay whole where one of them is missing."""
        return frame_of(self.records)

    def json(self) -> str:
        """Totals and all rows; what is no number is null."""
        return json_of({"totals": self.totals, "rows": list(self.records)})

    def markdown(self) -> str:
        """All rows, for GitHub."""
        return f"{self.caption}\n\n{to_markdown(self.grid)}" if self.grid else self.caption

    def plot(self, path: Any = None) -> "Figure":
        """The picture, saved where a file is named."""
        if self.draw is not None:
            figure = self.draw()
        else:
            names = [line.cells[0] for line in self.grid.lines] if self.grid else []
            figure = bars_figure(self.caption, names, self.bars or self.weights, self.label)
        if path is not None:
            save_figure(figure, path)
        return figure


@singledispatch
def sheet_of(answer: Any) -> Sheet:
    """Lay out an answer by its kind."""
    raise TypeError(f"nothing says how a {type(answer).__name__} reads")


def _places(path: Callable[[Any], str], kind: Callable[[Any], str]) -> List[Tuple[Column, Callable[[Any], str]]]:
    """The columns that say which module a row is of, and what it computes."""
    return [
        (Column("module", is_text=True), lambda row: path(row) or THE_MODEL),
        (Column("type", is_text=True, spare=2), kind),
        (Column("output shape", is_text=True, spare=3), lambda row: "x".join(map(str, row.output_shape))),
    ]


def _gflops(flops: float) -> str:
    return f"{flops / 1e9:.3f}"


@sheet_of.register(ModelInfo)
def _info(found: ModelInfo) -> Sheet:
    if found.profile is None:
        return Sheet(found.headline(), None, (), {})
    draw = partial(accesses_figure, found.headline(), found.traffic)
    return Sheet(found.headline(), found.grid(), (), {}, draw, few=found.grid(most=_FEW))


@sheet_of.register(Profile)
def _profile(found: Profile) -> Sheet:
    gflops = f"{readable(found.total_ops)} multiply-accumulates ({found.total_ops * 2 / 1e9:.1f} GFLOPs)"
    words = [gflops, f"{readable(found.total_params)} parameters"]
    words.append(accesses(found.total_kernel_macs, found.total_output_macs))
    columns = [
        *_places(lambda row: row.path, lambda row: row.kind.__name__),
        (Column("GFLOPs"), lambda row: _gflops(row.total_ops * 2)),
        (Column("kernel", "accesses"), lambda row: readable(row.total_kernel_macs)),
        (Column("output", "accesses"), lambda row: readable(row.total_output_macs)),
    ]
    rows = [
        {"path": each.path, "type": each.kind.__name__, "calls": each.calls, "output_shape": list(each.output_shape),
         "parameters": sum(each.parameters.values()), "ops": each.ops, "kernel": each.kernel, "output": each.output}
        for each in found.layers
    ]  # fmt: skip
    totals = {name: getattr(found, name) for name in (*TOTALS, "missing", "only_moved", "mode", "why")}
    caption = " ".join(filter(None, [", ".join(words), kinds_not_counted(found.missing)]))
    weights = [layer.kernel + layer.output for layer in found.layers]
    return Sheet(caption, grid_of(columns, found.layers, found), rows, totals, weights=weights, label="accesses")


@sheet_of.register(Traffic)
def _traffic(found: Traffic) -> Sheet:
    peak = f"{readable_bytes(found.peak_activation_bytes)} of activations at the peak"
    caption = f"{moved(found)}, {found.flops / 1e9:.1f} GFLOPs, {peak}"
    layers = [layer for layer in found.layers if layer.bytes or layer.flops]
    columns = [
        *_places(lambda row: row.path, lambda row: row.type),
        (Column("GFLOPs"), lambda row: _gflops(row.flops)),
        (Column("read"), lambda row: readable_bytes(row.read_bytes)),
        (Column("written"), lambda row: readable_bytes(row.written_bytes)),
        (Column("FLOPs/B"), lambda row: f"{(row.arithmetic_intensity if row is found else row.intensity):.1f}"),
    ]
    totals = {**totals_of(found), "mode": found.mode, "why": found.why}
    rows = [record_of(row) for row in found.layers]
    weights = [layer.bytes for layer in layers]
    return Sheet(
        caption, grid_of(columns, layers, found), rows, totals, partial(accesses_figure, caption, found), weights
    )


@sheet_of.register(Deployed)
def _deployed(found: Deployed) -> Sheet:
    launches = found.launches
    weights, read, written = map(readable, (found.weight_elements, found.read_elements, found.written_elements))
    sums = f"{weights} elements of weights, {read} elements read, {written} elements written"
    caption = f"{len(launches)} launches under {found.runtime.title}: {found.flops / 1e9:.1f} GFLOPs, {sums}"
    columns = [
        (Column("module", is_text=True), lambda one: one.layers[0] or THE_MODEL),
        (Column("operators", is_text=True, spare=1), lambda one: cut(" + ".join(one.operators), 32)),
        (Column("GFLOPs"), lambda one: _gflops(one.flops)),
        (Column("weights", "elements"), lambda one: readable(one.weight_elements)),
        (Column("read", "elements"), lambda one: readable(one.read_elements)),
        (Column("written", "elements"), lambda one: readable(one.written_elements)),
    ]
    totals = {**record_of(found), "runtime": found.runtime.name, "launches": len(launches)}
    elements, rows = [each.elements for each in launches], list(map(record_of, launches))
    return Sheet(caption, grid_of(columns, launches, found), rows, totals, weights=elements, label="elements")


@sheet_of.register(Timing)
def _timing(found: Timing) -> Sheet:
    numbers = {**record_of(found), "runtime": found.runtime.name}
    columns = [
        (Column("device", is_text=True), lambda one: one.device),
        (Column("time", "ms"), lambda one: f"{one.seconds * 1e3:.3f}"),
        (Column("from", "ms"), lambda one: f"{one.low * 1e3:.3f}"),
        (Column("to", "ms"), lambda one: f"{one.high * 1e3:.3f}"),
        (Column("binds"), lambda one: one.binds),
    ]
    bars = [found.seconds * 1e3]
    return Sheet(timing_headline(found), grid_of(columns, [found]), [numbers], numbers, label="ms", bars=bars)


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
    totals = {name: value for name, value in record_of(found).items() if name != "kept_by_layer"}
    for name in ("forward", "loss", "backward", "optimizer", "validation"):
        totals[name] = record_of(getattr(found, name))
    kept = [{"path": path, "kept_bytes": size} for path, size in found.kept_by_layer]
    caption = training_headline(f"A step of {found.batch} images" if found.batch != 1 else "A step of one image", found)
    sizes = [size / 1e6 for size in found.parts().values() if size]
    return Sheet(caption, memory_grid(found), kept, totals, label="MB", bars=sizes)


@sheet_of.register(Calibration)
def _calibration(found: Calibration) -> Sheet:
    caption = (
        f"{found.name}: {len(found.rates)} network{'s' * (len(found.rates) != 1)} under {found.runtime.title}, "
        f"{found.precision}; nine of ten others lie within x {found.ranges[-1]:.2f}"
    )
    errors = found.ratios or [math.nan] * len(found.rates)
    rows = [
        {"network": i, "predicted_to_measured": error, "flops_per_second": rate}
        for i, (error, rate) in enumerate(zip(errors, found.rates), 1)
    ]
    columns = [
        (Column("network", is_text=True), lambda row: str(row["network"])),
        (Column("predicted / measured"), lambda row: f"{row['predicted_to_measured']:.2f}".replace("nan", "")),
        (Column("GFLOP/s"), lambda row: f"{row['flops_per_second'] / 1e9:.0f}"),
    ]
    totals = {"name": found.name, "runtime": found.runtime.name, "precision": found.precision, "error": found.error}
    totals.update(found.constants._asdict())
    return Sheet(caption, grid_of(columns, rows), rows, totals, label="predicted / measured", bars=errors)


@sheet_of.register(Comparison)
def _comparison(found: Comparison) -> Sheet:
    caption = f"{len(found.rows)} models side by side" if len(found.rows) != 1 else found.rows[0].name
    return Sheet(caption, grid_of_comparison(found.rows), records(found.rows), {}, partial(_points, found))


@sheet_of.register(Advice)
def _advice(found: Advice) -> Sheet:
    rows = [{**record_of(row), "cfg": row.cfg} for row in found.rows]
    totals = {**record_of(found.before.timing()), "runtime": found.before.runtime.name}
    bars = [row.seconds * 1e3 for row in found.rows]
    if not rows:
        return Sheet(f"{headline(found.before)}\n{advice_text(found)}", None, rows, totals)
    return Sheet(headline(found.before), advice_grid(found), rows, totals, label="ms", bars=bars)


@sheet_of.register(Choice)
def _choice(found: Choice) -> Sheet:
    rows = [{name: value for name, value in record_of(row).items() if name != "timing"} for row in found.rows]
    totals = {"device": found.device, "limit_seconds": found.limit, "images_per_second": found.fps}
    totals["basis"] = found.basis
    draw, few = partial(choice_figure, found), choice_grid(found, _FEW)
    return Sheet(choice_headline(found), choice_grid(found), rows, totals, draw, few=few)


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
