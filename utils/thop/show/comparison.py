"""Several models side by side: a row for each, with what was counted and its differences to the first.

For machines in base units; for readers in units that fit, with the sentences below.
"""

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import torch

from ..answer import Answer, Rows, csv_of, frame_of, json_of
from ..deploy.bound import TimeBound, time_bound
from ..deploy.devices import Device
from ..deploy.measurements import Measurement
from ..deploy.prediction import Timing
from ..deploy.runtimes import DeviceError
from ..traffic import Traffic
from ..units import kinds_not_counted, together
from .grid import Column, Grid, Line, Note, to_latex, to_markdown, to_text
from .predictions import place_of, remarks_on, usually_off


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
        ops, kernel, output = (self._total(column) for column in ("total_ops", "kernel", "output"))
        found: Dict[str, Any] = {"parameters": self.parameters, "total_ops": ops, "gflops": ops * 2 / 1e9}
        found.update(kernel=kernel, output=output, accesses=kernel + output)
        found["traffic_bytes"] = self.traffic.read_bytes + self.traffic.written_bytes
        for one in QUANTITIES:
            if one.path and getattr(self, one.path.partition(".")[0]) is not None:
                found[one.key] = attrgetter(one.path)(self)
        if self.prediction is not None:
            found["launch_gflops"] = self.prediction.flops / 1e9
            found["images_per_second"] = self.images / self.prediction.seconds if self.prediction.seconds else None
            found.setdefault("measured_seconds", None)
        return found

    def _total(self, column: str) -> float:
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
            place = row.prediction
            record.update({name: getattr(place, name, None) for name in ("device", "runtime", "precision")})
            record["runtime"] = place.runtime.name if place else None
            record["predicted_binds"], record["basis"] = (place.binds, place.basis) if place else (None, None)
        record.update({f"{key}_percent": difference(values.get(key), base.get(key)) for key in keys})
        record["kinds_not_counted"] = len(row.traffic.missing) if row.traffic else None
        record.update(mode=row.traffic.mode if row.traffic else None, remarks="; ".join(row.remarks()), error=row.error)
        found.append(record)
    return found


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
    """What is compared: its key for machines, its heading for readers, and the units that it can be shown in.

    path: where it is read off a row, if it is no more than that; units: the largest first; compared: whether a
    difference to the first row stands below; spare: as of a column.
    """

    key: str
    heading: str
    path: str = ""
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
    Quantity("parameters", "params", units=_ELEMENTS, spare=4),
    Quantity("gflops", "GFLOPs"),
    Quantity("total_ops", "multiply-adds", units=_OPERATIONS),
    Quantity("kernel", "kernel", units=_ELEMENTS, spare=7),
    Quantity("output", "output", units=_ELEMENTS, spare=6),
    Quantity("accesses", "accesses", units=_ELEMENTS),
    Quantity("traffic_bytes", "traffic", units=_BYTES),
    Quantity("arithmetic_intensity", "FLOPs/B", "traffic.arithmetic_intensity", spare=9),
    Quantity("peak_activation_bytes", "peak", "traffic.peak_activation_bytes", _BYTES, spare=8),
    Quantity("time_seconds", "least", "bound.seconds", _SECONDS),
    Quantity("predicted_seconds", "time", "prediction.seconds", _SECONDS),
)
PREDICTED = (
    Quantity("launch_gflops", "GFLOPs"),
    Quantity("launch_bytes", "moves", "prediction.bytes", _BYTES),
    Quantity("launches", "launches", "prediction.launch_count", _WHOLE, spare=2),
    COMPARED[-1],
    Quantity("predicted_low_seconds", "from", "prediction.low", _SECONDS, compared=False),
    Quantity("predicted_high_seconds", "to", "prediction.high", _SECONDS, compared=False),
    Quantity("images_per_second", "images/s"),
    Quantity("measured_seconds", "published", "published.seconds", _SECONDS, compared=False),
    Quantity("arena_bytes", "arena", "prediction.memory.arena_bytes", _BYTES, compared=False, spare=1),
    Quantity("weight_bytes", "weights", "prediction.memory.weight_bytes", _BYTES, compared=False, spare=1),
)
QUANTITIES = (
    *COMPARED,
    *PREDICTED,
    Quantity("flops", "", "traffic.flops"),
    Quantity("read_bytes", "", "traffic.read_bytes"),
    Quantity("written_bytes", "", "traffic.written_bytes"),
    Quantity("time_memory_seconds", "", "bound.memory_seconds"),
)
NAMES = {quantity.heading.lower(): quantity for quantity in COMPARED}
"""What is compared, by what it is called on the command line."""
_TIMES = ("time_seconds", "predicted_seconds")
_IF_KNOWN = (*_TIMES, *(quantity.key for quantity in PREDICTED))
USUAL = tuple(quantity for quantity in COMPARED if quantity.heading != "multiply-adds")
"""What stands in a table where nobody asks for more."""
_ON_DEVICES = tuple(one for one in PREDICTED if one.heading in ("time", "from", "to", "images/s", "published"))
_Texts = List[Tuple[Column, Callable[[Row], str]]]


def _on_devices(rows: Sequence[Row]) -> bool:
    """Whether rows are of several devices."""
    return len({row.device for row in rows if row.device}) > 1


def grid_of_comparison(rows: Sequence[Row], quantities: Sequence[Quantity] = USUAL) -> Grid:
    """Lay out the cells, with the differences below them; on several devices the times alone."""
    numbers, base, on_devices = [row.numbers() for row in rows], baseline_of(rows), _on_devices(rows)
    first = {} if on_devices else base.numbers()
    known = {key for values in numbers for key, value in values.items() if value is not None}
    chosen = _ON_DEVICES if on_devices else quantities
    shown = [one for one in chosen if on_devices or one.key in known or one.key not in _IF_KNOWN]
    before, after = _texts_on_devices(rows) if on_devices else _texts(rows, bool(known & set(_TIMES)))
    columns, cells = [], []
    for one in shown:
        unit, texts = one.shown([values.get(one.key) for values in numbers])
        columns.append(Column(one.heading, unit, spare=one.spare))
        cells.append(texts)
    lines = []
    for i, row in enumerate(rows):
        below: List[str] = []
        if row is not base and row.traffic and first:
            differences = [_difference(one, numbers[i], first) for one in shown]
            below = [*[""] * len(before), *differences, *[""] * len(after)]
        start, end = ([write(row) for _, write in texts] for texts in (before, after))
        line = [*start, *(texts[i] for texts in cells), *end]
        lines.append(Line(line, below, "" if row.traffic else row.error))
    heads, tails = ([column for column, _ in texts] for texts in (before, after))
    return Grid([*heads, *columns, *tails], lines, notes=notes(rows))


def _texts(rows: Sequence[Row], timed: bool) -> Tuple[_Texts, _Texts]:
    """What stands before and behind the numbers; the input only where not all have the same."""
    mixed = len({row.dtype for row in rows if row.traffic}) > 1

    def given(row: Row) -> str:
        return f"{row.input} {row.dtype}" if mixed and row.traffic else row.input

    def binds(row: Row) -> str:
        place = row.prediction or row.bound
        return place.binds if place else ""

    several = len({given(row) for row in rows if row.input}) > 1
    before: _Texts = [(Column("model", is_text=True), _named)]
    before += [(Column("input", is_text=True, spare=5), given)] if several else []
    return before, [(Column("binds", spare=3), binds)] if timed else []


def _texts_on_devices(rows: Sequence[Row]) -> Tuple[_Texts, _Texts]:
    """The same for several devices: where each row is of, and what its time rests on."""

    def basis(row: Row) -> str:
        measured = row.prediction.measured if row.prediction else 0
        return f"{measured} networks" if measured else "its data sheet" if row.prediction else ""

    before: _Texts = [
        (Column("device", is_text=True), lambda row: row.device),
        (Column("runtime", is_text=True, spare=1), lambda row: row.prediction.runtime.name if row.prediction else ""),
        (Column("precision", is_text=True, spare=3), lambda row: row.prediction.precision if row.prediction else ""),
    ]
    if len({row.name for row in rows}) > 1:
        before.insert(0, (Column("model", is_text=True), _named))
    return before, [(Column("rests on", is_text=True, spare=2), basis)]


def _named(row: Row) -> str:
    return row.name + _STAR * bool(row.traffic and row.traffic.missing)


def _difference(quantity: Quantity, numbers: Dict[str, Any], first: Dict[str, Any]) -> str:
    value = difference(numbers.get(quantity.key), first.get(quantity.key)) if quantity.compared else None
    if value is None:
        return ""
    return f"{value:+.1f}%" if abs(value) < 1000 else f"{value:+.0f}%" if value < 1e5 else f"{value:+.0e}%"


def notes(rows: Sequence[Row]) -> List[Note]:
    """The sentences below the table: what the numbers mean, and which are not what they seem."""
    good, on_devices = [row for row in rows if row.traffic], _on_devices(rows)
    found: List[Note] = []
    if len(rows) > 1 and not on_devices:
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
    found += [{"from": "nine of ten times lie between 'from' and 'to'"}] if on_devices else _about_time(rows)
    found += published_by(rows)
    said = [(remark, _named(row)) for row in (good[:1] if on_devices else good) for remark in row.remarks()]
    said += [(row.error, row.device if on_devices else _named(row)) for row in good if row.error]
    return [*found, *(f"{', '.join(named)}: {remark}." for remark, named in together(said).items())]


def _about_time(rows: Sequence[Row]) -> List[Note]:
    """What the times mean, and what the predicted ones rest on."""
    found: List[Note] = []
    bound = next((row.bound for row in rows if row.bound), None)
    prediction = next((row.prediction for row in rows if row.prediction), None)
    if bound is not None:
        what = "in the precision that was counted" if prediction is None else "for the same launches"
        found.append({"least": f"least is the least time that the data sheet of {bound.device.title} allows, {what}"})
    if prediction is not None:
        basis = f"from {prediction.basis}; {usually_off(prediction)}"
        found.append({"time": f"time is the expected one on {place_of(prediction)}, {basis}"})
    moves, memory = "moves is what is read and written there", "arena and weights are what lies in the device's memory"
    return [*found, {"binds": "binds says what most of the time goes to", "moves": moves, "arena": memory}]


def published_by(rows: Sequence[Row]) -> List[Note]:
    """Say who has published times of these very networks."""
    known = [row.published for row in rows if row.published is not None]
    names = [f"{one.source.partition(':')[0]}{'' if one.decode else ', heads undecoded'}" for one in known]
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _SOURCES} others" if len(names) > _SOURCES else ""
    who = f"published, of the same network at this size, by {'; '.join(names[:_SOURCES])}{more}"
    return [{"published": who}] if names else []


def comparison_text(rows: Sequence[Row], form: str, quantities: Sequence[Quantity] = USUAL) -> str:
    """Write the comparison as csv or json, which have all numbers, or as markdown, latex or text."""
    if form == "csv":
        return csv_of(frame_of(records(rows)))
    if form == "json":
        return json_of(records(rows)) + "\n"
    grid = grid_of_comparison(rows, quantities)
    if form in ("markdown", "latex"):
        return to_markdown(grid) if form == "markdown" else to_latex(grid)
    return to_text(grid, _WIDE) + "\n"
