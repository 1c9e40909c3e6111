"""A user's measurements: reading them, counting their models, and the device that they make."""

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ..deploy.calibration import Calibration, calibrate
from ..deploy.devices import THIS, key_of
from ..deploy.estimates import entry_of as estimate_entry
from ..deploy.estimates import joined, read_runtimes
from ..deploy.launches import Deployed, as_deployed
from ..deploy.runtimes import DeviceError, Runtime, find_runtime, unreadable
from ..measure.here import calibrate_here, setting_here
from ..measure.logs import LogFit, Matched, calibrate_from_log, factor_by_time, match_log, read_log
from ..run import in_few_words
from ..show.grid import Column, Grid, Line, fitted, grid_of, to_text
from ..show.predictions import THE_MODEL, milliseconds
from ..units import first_of
from .arguments import image_side, rate, whole_number
from .checkout import ModelError
from .models import Built, Setup, Source, counted, find_one

_NEEDED = ("model", "ms")
_BUSY = 1.25  # a median pass this many times the fastest: the machine was not left alone


class Measured(NamedTuple):
    """A measured model; where: the file and the line; seconds: of a pass over the batch."""

    where: str
    source: Source
    setup: Setup
    seconds: float


def read_measurements(path: Path, fuse: bool) -> List[Measured]:
    """Read a table of measured models; raises DeviceError, with the file and the line, for what does not fit."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restval="")
            reader.fieldnames = names = [name.strip() for name in reader.fieldnames or []]
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, error) from error
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise DeviceError(f"{path} has no column {missing[0]}; it takes model and ms, and may have imgsz and batch")
    if not rows:
        raise DeviceError(f"{path} holds no measurements")
    return [_measured(f"{path}, line {number}", row, fuse) for number, row in enumerate(rows, 2)]


def _measured(where: str, row: Dict[str, Any], fuse: bool) -> Measured:
    """Read a line of the table by what the command line takes."""

    def read(name: str, kind: Callable[[str], Any], usual: Any = None) -> Any:
        try:
            words = row.get(name, "").strip()
            return usual if usual is not None and not words else kind(words)
        except argparse.ArgumentTypeError as error:
            raise DeviceError(f"{where}: {name} {error}") from None

    seconds, batch = read("ms", rate) / 1e3, read("batch", whole_number, 1)
    size = read("imgsz", lambda words: image_side(words.replace("x", " ")) if words else None)
    try:
        source = find_one(row["model"].strip(), "not one")
    except ModelError as error:
        raise DeviceError(f"{where}: {error}") from error
    return Measured(where, source, Setup(size, batch, False, fuse), seconds)


def calibrate_board(
    arguments: argparse.Namespace, progress: Callable[..., Iterable[Any]]
) -> Tuple[Calibration, List[Measured]]:
    """Count the measured models and fit the board's constants; raises DeviceError for what does not fit."""
    runtime, precision, name = _board(arguments)
    lines = read_measurements(arguments.table, arguments.fuse)
    measured = []
    for line in progress(lines):
        where = f"{line.where}: {line.source.text}"
        network = _deployed(line.source, line.setup, runtime, precision == "amp", arguments.decode, where)
        measured.append((network, line.seconds))
    return calibrate(measured, precision, name), lines


def _board(arguments: argparse.Namespace) -> Tuple[Runtime, str, str]:
    """The runtime, the precision and the name of what is calibrated; raises DeviceError."""
    runtime = find_runtime(arguments.runtime)
    return runtime, runtime.precision(arguments.precision), _name(arguments)


def _name(arguments: argparse.Namespace) -> str:
    name = key_of(arguments.name)
    if not name or name == THIS:
        raise DeviceError(f"a device can't be called {arguments.name!r}")
    return name


def calibrate_log(arguments: argparse.Namespace) -> Tuple[Calibration, str]:
    """Fit a board's constants to the profile of one model, and say how; raises DeviceError for what does not fit."""
    runtime, precision, name = _board(arguments)
    rows = read_log(arguments.log, runtime.name)
    source = find_one(arguments.model, "and the log is of one")
    setup = Setup(arguments.imgsz, arguments.batch, False, arguments.fuse)
    network = _deployed(source, setup, runtime, precision == "amp", arguments.decode, source.text)
    try:
        matched = match_log(rows, network)
    except DeviceError as error:
        raise DeviceError(f"{arguments.log}: {error}") from error
    seconds = arguments.ms / 1e3 if arguments.ms else None
    if seconds and not matched.seconds / _FAR < seconds < matched.seconds * _FAR:
        raise DeviceError(f"--ms {arguments.ms:g} is no pass of this log, which has {milliseconds(matched.seconds)}")
    learned = calibrate_from_log(matched, precision, name, seconds=seconds)
    return learned.calibration, describe_log(learned, matched, seconds)


def calibrate_machine(
    arguments: argparse.Namespace, progress: Callable[..., Iterable[Any]]
) -> Tuple[Calibration, str, str]:
    """Measure this machine and fit its constants, say how far off they are, and under what; raises DeviceError."""
    name, setting = _name(arguments), setting_here(arguments.here, arguments.threads, arguments.precision)
    calibration, timed = calibrate_here(setting, name, progress)
    told = describe(calibration, [(one.name, one.seconds) for one in timed])
    slower = median(median(one.passes) / one.seconds for one in timed)
    if slower > _BUSY:
        told += f"\nThe median pass took {slower:.1f} times the fastest: something else runs here; measure once more."
    return calibration, told, setting.source


def _deployed(
    source: Source, setup: Setup, runtime: Runtime, amp: bool, decode: Optional[bool], where: str
) -> Deployed:
    """Count a model; raises DeviceError, which begins with ``where``, for what can't be counted."""

    def count(built: Built) -> Deployed:
        return as_deployed(built.record(amp), runtime, decode)

    try:
        return counted(source, setup, count)
    except Exception as error:
        reason = str(error) if isinstance(error, (ModelError, DeviceError)) else in_few_words(error)
        raise DeviceError(f"{where}: {reason}") from error


def describe(calibration: Calibration, measured: Sequence[Tuple[str, float]]) -> str:
    """The constants, how far each network is off that was left out, and how far all are; of names and seconds."""
    rates = [f"{rate / 1e9:.0f}" for rate in calibration.rates]
    heads, columns = ["measured", "GFLOP/s"], [[f"{seconds * 1e3:.3f} ms" for _, seconds in measured], rates]
    if calibration.ratios:
        off = list(zip(measured, calibration.ratios))
        heads += ["by the others", "off"]
        columns += [[f"{one[1] * ratio * 1e3:.3f} ms" for one, ratio in off], [f"x {ratio:.2f}" for _, ratio in off]]
    if len(calibration.ranges) == len(measured):
        heads.append("range with it")
        columns.append([f"x {reach:.2f}" for reach in calibration.ranges])
    lines = [Line(cells) for cells in zip([name for name, _ in measured], *columns)]
    table = to_text(Grid([Column("network", is_text=True), *map(Column, heads)], lines))
    said = _constants(calibration)
    if calibration.odd:
        said.append(f"{measured[calibration.odd - 1][0]} contradicts all others: was it measured alike?")
    return "\n".join([table, "", *map(fitted, said)])


def _constants(calibration: Calibration) -> List[str]:
    known = calibration.constants
    place = f"{calibration.name}, {calibration.runtime.title}, {calibration.precision}"
    constants = f"peak {known.peak / 1e12:.4g} TOPS, bandwidth {known.bandwidth / 1e9:.4g} GB/s"
    return [f"{place}: {constants}", f"Of ten other networks nine lie within x {calibration.ranges[-1]:.2f}."]


_NAMED = 5  # layers
_LONGER, _UNLIKE, _FAR = 1.05, 4.0, 50.0
"""A pass without a profile: so much longer at most, shorter, or in another unit."""


def describe_log(learned: LogFit, matched: Matched, seconds: Optional[float]) -> str:
    """What of a log belongs to the network, what does not, and how far its layers are off after the fit."""
    times, pairs, calibration = learned.times, matched.pairs, learned.calibration
    odd = sorted(zip(pairs, times), key=lambda one: -abs(one[0].seconds - one[1]))[:_NAMED]
    columns: List[Tuple[Column, Callable[[Any], str]]] = [
        (Column("largest misfits", is_text=True), lambda one: one[0].launches[0].layers[0] or THE_MODEL),
        (Column("measured"), lambda one: milliseconds(one[0].seconds)),
        (Column("fitted"), lambda one: milliseconds(one[1])),
        (Column("off"), lambda one: f"x {one[1] / one[0].seconds:.2f}"),
    ]
    table = to_text(grid_of(columns, odd))
    count, whole = sum(len(pair.rows) for pair in pairs), milliseconds(matched.seconds)
    said = [f"{count} of {count + len(matched.rows_left)} rows match, {matched.share:.1%} of {whole}."]
    left = sorted(matched.rows_left, key=lambda row: -row.seconds)
    alone = [f"{' + '.join(one.operators)} of {one.layers[0] or THE_MODEL}" for one in matched.launches_left]
    for text, names in (
        ("Rows of no launch here", [f"{row.name} ({milliseconds(row.seconds)})" for row in left]),
        ("Launches without a row", alone),
    ):
        said += [f"{text}: {first_of(names, _NAMED)}."] if names else []
    if not matched.has_shapes:
        said.append("It tells no shapes, so it could not be checked that it is of this image size.")
    said.append(f"The layers are off by x {factor_by_time(pairs, times):.2f} on average, weighted by time.")
    if seconds and not matched.seconds / _UNLIKE < seconds <= matched.seconds * _LONGER:
        said.append(f"The pass of {milliseconds(seconds)} contradicts the log: layers that are profiled take longer.")
    if seconds:
        whole = milliseconds(seconds * calibration.ratios[0])
        said.append(f"A pass takes {whole} by the fit, and {milliseconds(seconds)} as it was measured.")
    return "\n".join([table, "", *map(fitted, [*said, *_constants(calibration)])])


def entry_of(calibration: Calibration, title: str, source: str) -> Dict[str, Any]:
    """What a file for --devices holds of the board."""
    basis = replace(calibration.estimate.basis, source=source)
    runtimes = {calibration.runtime.name: estimate_entry(replace(calibration.estimate, basis=basis))}
    return {"title": title, "kind": calibration.runtime.kind, "runtimes": runtimes}


def file_text(devices: Dict[str, Any]) -> str:
    """Write devices as a file for --devices holds them."""
    import yaml

    return yaml.safe_dump(devices, sort_keys=False, default_flow_style=None, width=110)


def add_to_file(path: Path, name: str, entry: Dict[str, Any]) -> None:
    """Add a device to a file, or a runtime to the device that is there; raises DeviceError for another kind of file."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        held = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise unreadable(path, error) from error
    if not isinstance(held, dict):
        raise DeviceError(f"{path} is no file of devices; give another --output")
    if name not in held:  # what is there stays to the letter
        gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        path.write_text(text + gap + file_text({name: entry}), encoding="utf-8")
        return
    known = held[name] = {**entry, **(held[name] if isinstance(held[name], dict) else {})}
    found = read_runtimes(entry["runtimes"], str(path))
    if known.get("runtimes"):
        older = read_runtimes(known["runtimes"], f"{path}: {name}")
        found = {**older, **{key: joined(one, older[key]) if key in older else one for key, one in found.items()}}
    known["runtimes"] = {key: estimate_entry(one) for key, one in found.items()}
    path.write_text(file_text(held), encoding="utf-8")
