"""Several models side by side: a row for each, with what was counted and its differences to the first.

For machines in base units; for readers in units that fit, with the sentences below.
"""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Sequence, Tuple

import torch

from ..answer import Answer, Rows, csv_of
from ..deploy.bound import TimeBound, time_bound
from ..deploy.devices import Device
from ..deploy.measurements import Measurement
from ..deploy.prediction import Timing
from ..deploy.runtimes import DeviceError
from ..traffic import Traffic
from ..units import kinds_not_counted
from .grid import Column, Grid, Line, Note, to_latex, to_markdown, to_text
from .predictions import place_of, remarks_on, usually_off

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass
class Row:
    """A model and what was counted of it, or else ``error``, why nothing was.

    source: where it comes from; input, dtype: what it was run on; rounded: a word about a size that the stride does
    not divide; bound, prediction: the least and the expected time on a device, if one was asked for; published: what
    somebody has measured of this very network there; device: its name; images: how many a pass is of; is_baseline:
    whether differences are to this one; without any, they are to the first.
    """

    name: str
    source: str
    traffic: Optional[Traffic] = None
    parameters: int = 0
    input: str = ""
    dtype: str = ""
    rounded: str = ""
    error: str = ""
    bound: Optional[TimeBound] = None
    prediction: Optional[Timing] = None
    published: Optional[Measurement] = None
    device: str = ""
    images: int = 1
    is_baseline: bool = False

    def numbers(self) -> Dict[str, Any]:
        """What is compared, in base units: elements, operations, bytes, seconds."""
        if self.traffic is None:
            return {}
        ops, kernel, output = (self._sum(column) for column in ("total_ops", "kernel", "output"))
        found = {
            "parameters": self.parameters,
            "total_ops": ops,
            "gflops": ops * 2 / 1e9,
            "kernel": kernel,
            "output": output,
            "accesses": kernel + output,
            **{name: getattr(self.traffic, name) for name in ("flops", "read_bytes", "written_bytes")},
            "traffic_bytes": self.traffic.read_bytes + self.traffic.written_bytes,
            "arithmetic_intensity": self.traffic.arithmetic_intensity,
            "peak_activation_bytes": self.traffic.peak_activation_bytes,
        }
        if self.bound is not None:
            found["time_seconds"] = self.bound.seconds
            found["time_memory_seconds"] = self.bound.memory_seconds
        if self.prediction is not None:
            found.update(self._predicted(self.prediction))
        if self.published is not None:
            found["measured_seconds"] = self.published.seconds
        return found

    def _predicted(self, prediction: Timing) -> Dict[str, Any]:
        """The expected time of a pass over all images, and what comes of it."""
        return {
            "predicted_seconds": prediction.seconds,
            "predicted_low_seconds": prediction.low,
            "predicted_high_seconds": prediction.high,
            "images_per_second": self.images / prediction.seconds if prediction.seconds else None,
            "measured_seconds": None,
            "launches": prediction.launch_count,
            "launch_gflops": prediction.flops / 1e9,
            "launch_bytes": prediction.bytes,
            "arena_bytes": prediction.memory.arena_bytes,
            "weight_bytes": prediction.memory.weight_bytes,
        }

    def _sum(self, column: str) -> float:
        """A total of the layer ledger, whole where it is."""
        total = math.fsum(getattr(layer, column) for layer in self.traffic.layers) if self.traffic else 0.0
        return int(total) if total == int(total) else total

    def remarks(self) -> List[str]:
        """What has to be known about the numbers beside their size."""
        if self.traffic is None:
            return []
        found = [self.rounded] if self.rounded else []
        if self.traffic.mode == "real":
            found.append(f"counted in a real forward pass ({self.traffic.why}), and may depend on the weights' values")
        if self.traffic.missing:
            names = ", ".join(self.traffic.missing)
            found.append(f"{kinds_not_counted(self.traffic.missing)} ({names})")
        if self.prediction is not None:
            found += remarks_on(self.prediction)
        for operator, (_, assumption) in self.traffic.uncounted.items():
            found.append(f"{operator} is not exact: {assumption}")
        return found


@dataclass(repr=False)
class Comparison(Answer):
    """Models side by side; rows: one for each, in the order that is shown."""

    rows: Rows[Row]


def dtypes_used(traffics: Iterable[Traffic]) -> List[torch.dtype]:
    """Name the types that the arithmetic of some models is done in, for the device that they are to run on."""
    found = {call.dtype: None for traffic in traffics for call in traffic.calls if call.dtype is not None}
    return list(found) or [torch.float32]


def bound_all(rows: Sequence[Row], device: Device) -> None:
    """Work out the least time of each model that has no expected one; where it is not known, say so in the row."""
    for row in rows:
        if row.traffic is not None and row.prediction is None:
            try:
                row.bound = time_bound(row.traffic, device)
            except DeviceError as error:
                row.error = f"no time: {error}"


def difference(value: Any, first: Any) -> Optional[float]:
    """How many per cent a value is above the first; None where there is nothing to compare with."""
    return None if value is None or not first else (value / first - 1) * 100


def baseline_of(rows: Sequence[Row]) -> Row:
    """The row that the others are compared with."""
    return next((row for row in rows if row.is_baseline), rows[0])


SORTS = {
    "parameters": "parameters", "gflops": "gflops", "accesses": "accesses", "traffic": "traffic_bytes",
    "peak": "peak_activation_bytes", "least": "time_seconds", "time": "predicted_seconds",
}  # fmt: skip
"""What a comparison can be sorted by, and the number that it is."""


OF_A_DEVICE = ("least", "time")
"""Those of them that there are for a device."""


def sort_rows(rows: Sequence[Row], by: str) -> List[Row]:
    """Sort by a number, the smallest first; those that have none come last, in their order."""
    values = [row.numbers().get(SORTS[by]) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (values[i] is None, values[i] or 0))
    return [rows[i] for i in order]


def records(rows: Sequence[Row]) -> List[Dict[str, Any]]:
    """A flat record for each row, in base units, with the differences in per cent; all with the same keys."""
    numbers = [row.numbers() for row in rows]
    base = baseline_of(rows).numbers() if rows else {}
    keys = max(numbers, key=len, default={}).keys()
    found = []
    for row, values in zip(rows, numbers):
        record: Dict[str, Any] = {"model": row.name, "source": row.source, "input": row.input, "dtype": row.dtype}
        record.update({key: values.get(key) for key in keys})
        if any(row.bound for row in rows):
            record["device"] = row.bound.device.name if row.bound else None
            record["binds"] = row.bound.binds if row.bound else None
        if any(row.prediction for row in rows):
            record.update(_place(row.prediction))
        record.update({f"{key}_percent": difference(values.get(key), base.get(key)) for key in keys})
        record["kinds_not_counted"] = len(row.traffic.missing) if row.traffic else None
        record.update(mode=row.traffic.mode if row.traffic else None, remarks="; ".join(row.remarks()), error=row.error)
        found.append(record)
    return found


def _place(prediction: Optional[Timing]) -> Dict[str, Optional[str]]:
    """Where a prediction is for, what holds most of the time there, and what it rests on."""
    if prediction is None:
        return dict.fromkeys(("device", "runtime", "precision", "predicted_binds", "basis"))
    runtime, binds = prediction.runtime.name, prediction.binds
    return {"device": prediction.device, "runtime": runtime, "precision": prediction.precision,
            "predicted_binds": binds, "basis": prediction.basis}  # fmt: skip


def to_dataframe(rows: Sequence[Row]) -> "DataFrame":
    """The records as a table; columns of whole numbers stay whole where a model could not be counted."""
    from pandas import DataFrame

    frame = DataFrame(records(rows), dtype=object)
    whole = [name for name, column in frame.items() if {type(value) for value in column} - {type(None)} == {int}]
    return frame.astype(dict.fromkeys(whole, "Int64")).infer_objects()


# ---- for readers ----

_WIDE = 120  # columns of the text
_FAR_APART = 1e5
_SOURCES = 3
_STAR = " *"  # behind the name of a model in which something ran that has no number
Unit = Tuple[str, float]
_ONES: Sequence[Unit] = (("", 1),)
_WHOLE: Sequence[Unit] = (("", 1.0),)  # of numbers that have no decimals
_OPERATIONS: Sequence[Unit] = (("G", 1e9), ("M", 1e6))
_ELEMENTS: Sequence[Unit] = (("M", 1e6), ("K", 1e3), ("", 1))
_BYTES: Sequence[Unit] = (("MB", 1e6), ("KB", 1e3), ("B", 1))
_SECONDS: Sequence[Unit] = (("ms", 1e-3), ("us", 1e-6))


@dataclass(frozen=True)
class Quantity:
    """What is compared, and the units that it can be shown in, the largest first.

    compared: whether a difference to the first row stands below; spare: as of a column.
    """

    key: str
    heading: str
    units: Sequence[Unit] = _ONES
    compared: bool = True
    spare: int = 0

    def shown(self, values: Sequence[Any]) -> Tuple[str, List[str]]:
        """Choose one unit and one number of decimals for all, by the smallest; return the unit and the cells.

        Numbers that are too small or too far apart for that are shown with three digits each.
        """
        told = [value for value in values if value] or [self.units[0][1]]
        unit, scale = next((unit for unit in self.units if min(told) >= unit[1] / 10), self.units[-1])
        least = min(told) / scale
        decimals = next((decimals for decimals, limit in enumerate((1, 0.1, 0.01), 1) if least >= limit), 4)
        form = ".0f" if scale == 1 and self.units is not _ONES else f".{decimals}f"
        if max(told) > _FAR_APART * min(told):
            (unit, scale), form = self.units[0], ".3g"
        elif min(told) < scale / 1000:
            form = ".3g"
        return unit, ["" if value is None else f"{value / scale:{form}}" for value in values]


COMPARED = (
    Quantity("parameters", "params", _ELEMENTS, spare=4),
    Quantity("gflops", "GFLOPs"),
    Quantity("total_ops", "multiply-adds", _OPERATIONS),
    Quantity("kernel", "kernel", _ELEMENTS, spare=7),
    Quantity("output", "output", _ELEMENTS, spare=6),
    Quantity("accesses", "accesses", _ELEMENTS),
    Quantity("traffic_bytes", "traffic", _BYTES),
    Quantity("arithmetic_intensity", "FLOPs/B", spare=9),
    Quantity("peak_activation_bytes", "peak", _BYTES, spare=8),
    Quantity("time_seconds", "least", _SECONDS),
    Quantity("predicted_seconds", "time", _SECONDS),
)
PREDICTED = (
    Quantity("launch_gflops", "GFLOPs"),
    Quantity("launch_bytes", "moves", _BYTES),
    Quantity("launches", "launches", _WHOLE, spare=2),
    Quantity("predicted_seconds", "time", _SECONDS),
    Quantity("predicted_low_seconds", "from", _SECONDS, compared=False),
    Quantity("predicted_high_seconds", "to", _SECONDS, compared=False),
    Quantity("images_per_second", "images/s"),
    Quantity("measured_seconds", "published", _SECONDS, compared=False),
    Quantity("arena_bytes", "arena", _BYTES, compared=False, spare=1),
    Quantity("weight_bytes", "weights", _BYTES, compared=False, spare=1),
)
NAMES = {quantity.heading.lower(): quantity for quantity in COMPARED}
"""What is compared, by what it is called on the command line."""
_TIMES = ("time_seconds", "predicted_seconds")
_IF_KNOWN = (*_TIMES, *(quantity.key for quantity in PREDICTED))
USUAL = tuple(quantity for quantity in COMPARED if quantity.heading != "multiply-adds")
"""What stands in a table where nobody asks for more."""


def grid_of_comparison(rows: Sequence[Row], quantities: Sequence[Quantity] = USUAL) -> Grid:
    """Lay out the cells; the input is a column of its own where not all have the same."""
    numbers, base = [row.numbers() for row in rows], baseline_of(rows)
    first = base.numbers()
    known = {key for values in numbers for key, value in values.items() if value is not None}
    shown = [one for one in quantities if one.key in known or one.key not in _IF_KNOWN]
    timed, inputs = bool(known & set(_TIMES)), _inputs(rows)
    several = len({text for text in inputs if text}) > 1
    head = [Column("model", is_text=True)] + [Column("input", is_text=True, spare=5)] * several
    columns, cells = _numbers(shown, numbers)
    lines = []
    for row, values, text, shown_numbers in zip(rows, numbers, inputs, cells):
        differences: List[str] = []
        if row is not base and row.traffic and first:
            differences = ["", *[""] * several, *(_difference(one, values, first) for one in shown), *[""] * timed]
        place = row.prediction or row.bound
        texts = [_named(row), *[text] * several, *shown_numbers, *[place.binds if place else ""] * timed]
        lines.append(Line(texts, differences, error="" if row.traffic else row.error))
    return Grid([*head, *columns, *[Column("binds", spare=3)] * timed], lines, notes=notes(rows))


def _numbers(quantities: Sequence[Quantity], numbers: Sequence[Dict[str, Any]]) -> Tuple[List[Column], List[List[str]]]:
    """The columns of some quantities, and their cells, by row."""
    columns = []
    rows: List[List[str]] = [[] for _ in numbers]
    for one in quantities:
        unit, cells = one.shown([values.get(one.key) for values in numbers])
        columns.append(Column(one.heading, unit, spare=one.spare))
        for row, cell in zip(rows, cells):
            row.append(cell)
    return columns, rows


def _named(row: Row) -> str:
    return row.name + _STAR * bool(row.traffic and row.traffic.missing)


def _inputs(rows: Sequence[Row]) -> List[str]:
    """What each model was run on, with the type where not all have the same."""
    mixed = len({row.dtype for row in rows if row.traffic}) > 1
    return [f"{row.input} {row.dtype}" if mixed and row.traffic else row.input for row in rows]


def _difference(quantity: Quantity, numbers: Dict[str, Any], first: Dict[str, Any]) -> str:
    value = difference(numbers.get(quantity.key), first.get(quantity.key)) if quantity.compared else None
    if value is None:
        return ""
    return f"{value:+.1f}%" if abs(value) < 1000 else f"{value:+.0f}%" if value < 1e5 else f"{value:+.0e}%"


def notes(rows: Sequence[Row]) -> List[Note]:
    """The sentences below the table: what the numbers mean, and which are not what they seem."""
    good = [row for row in rows if row.traffic]
    found: List[Note] = []
    if len(rows) > 1:
        base = baseline_of(rows)
        against = f"Percentages are differences to {base.name}."
        found.append(against if base.traffic else f"No differences, for {base.name} was not counted.")
    what = {(row.input, row.dtype) for row in good}
    if len(what) == 1:
        size, dtype = what.pop()
        timed = any(row.prediction for row in good)
        found += (
            [f"Input {size}.", {"traffic": f"traffic is that in {dtype}"}] if timed else [f"Input {size}, {dtype}."]
        )
    if good:
        peak = "peak is the most memory that activations take at once"
        found.append({"accesses": "accesses are elements, kernel + output", "peak": peak})
    found += _about_time(rows)
    remarks: Dict[str, List[str]] = {}
    for row in good:
        for remark in [*row.remarks(), *([row.error] if row.error else [])]:
            remarks.setdefault(remark, []).append(_named(row))
    return [*found, *(f"{', '.join(models)}: {remark}." for remark, models in remarks.items())]


def _about_time(rows: Sequence[Row]) -> List[Note]:
    """What the times mean, and what the predicted ones rest on."""
    found: List[Note] = []
    bound = next((row.bound for row in rows if row.bound), None)
    prediction = next((row.prediction for row in rows if row.prediction), None)
    if bound is not None:
        what = "in the precision that was counted" if prediction is None else "for the same launches"
        found.append({"least": f"least is the least time that the data sheet of {bound.device.title} allows, {what}"})
    if prediction is not None:
        where = place_of(prediction)
        found.append(
            {"time": f"time is the expected one on {where}, from {prediction.basis}; {usually_off(prediction)}"}
        )
    moves, memory = "moves is what is read and written there", "arena and weights are what lies in the device's memory"
    found.append({"binds": "binds says what most of the time goes to", "moves": moves, "arena": memory})
    return [*found, *published_by(rows)]


def published_by(rows: Sequence[Row]) -> List[str]:
    """Say who has published times of these very networks."""
    found: Dict[str, None] = {}
    for row in rows:
        known = row.published
        if known is not None:
            found[f"{known.source.partition(':')[0]}{'' if known.decode else ', heads undecoded'}"] = None
    names = list(found)
    more = f" and {len(names) - _SOURCES} others" if len(names) > _SOURCES else ""
    return [f"Published, of the same network at this size, by {'; '.join(names[:_SOURCES])}{more}."] if names else []


def grid_of_devices(rows: Sequence[Row]) -> Grid:
    """Lay out the times of models on several devices, a row for each."""
    several = len({row.name for row in rows}) > 1
    head = [Column("model", is_text=True)] * several + [Column("device", is_text=True, is_whole=True)]
    head += [Column("runtime", is_text=True, spare=1), Column("precision", is_text=True, spare=3)]
    columns, cells = _numbers([one for one in PREDICTED if one.key in _ON_DEVICES], [row.numbers() for row in rows])
    lines = []
    for row, numbers in zip(rows, cells):
        place, where, basis = row.prediction, ["", ""], ""
        if place is not None:
            where = [place.runtime.name, place.precision]
            basis = f"{place.measured} networks" if place.measured else "its data sheet"
        texts = [*[_named(row)] * several, row.device, *where, *numbers, basis]
        lines.append(Line(texts, error="" if row.traffic else row.error))
    first = next((row for row in rows if row.traffic), rows[0])
    what = "" if several else f"{first.name}, "
    said = [f"{what}input {first.input}. Nine of ten times lie between 'from' and 'to'.", *published_by(rows)]
    missing = [f"{row.name}: {remark}." for row in rows[:1] for remark in row.remarks()]
    reasons: Dict[str, List[str]] = {}
    for row in rows:
        if row.traffic and row.error:
            reasons.setdefault(row.error, []).append(row.device)
    refused = [f"{', '.join(called)}: {error}." for error, called in reasons.items()]
    columns = [*head, *columns, Column("rests on", is_text=True, spare=2)]
    return Grid(columns, lines, notes=[*said, *missing, *refused])


_ON_DEVICES = (
    "predicted_seconds", "predicted_low_seconds", "predicted_high_seconds", "images_per_second", "measured_seconds",
)  # fmt: skip


def comparison_text(rows: Sequence[Row], form: str, quantities: Sequence[Quantity] = USUAL) -> str:
    """Write the comparison as csv or json, which have all numbers, or as markdown, latex or text."""
    if form == "csv":
        return csv_of(to_dataframe(rows))
    if form == "json":
        return json.dumps(records(rows), indent=1, allow_nan=False) + "\n"
    devices = {row.device for row in rows if row.device}
    grid = grid_of_devices(rows) if len(devices) > 1 else grid_of_comparison(rows, quantities)
    if form in ("markdown", "latex"):
        return to_markdown(grid) if form == "markdown" else to_latex(grid)
    return to_text(grid, _WIDE) + "\n"
