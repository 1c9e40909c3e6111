"""A user's measurements: reading them, counting their models, and the device that they make."""

import argparse
import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from ..deploy.calibration import Calibration, calibrate
from ..deploy.devices import THIS, key_of
from ..deploy.estimates import entry_of as estimate_entry
from ..deploy.estimates import joined, read_runtimes
from ..deploy.launches import Deployed, as_deployed
from ..deploy.runtimes import DeviceError, Runtime, find_runtime, unreadable
from ..measure.here import calibrate_here, setting_here
from ..measure.logs import LogFit, Matched, calibrate_from_log, factor_by_time, match_log, read_log
from ..run import in_few_words
from ..show.grid import Column, Grid, Line, fitted, to_text
from ..show.predictions import THE_MODEL, milliseconds
from ..units import first_of
from .checkout import ModelError
from .models import Built, Setup, Source, counted, find_one, size_in

_NEEDED = ("model", "ms")
_BUSY = 1.25  # a median pass this many times the fastest: the machine was not left alone


@dataclass(frozen=True)
class Measured:
    """A measured model; number: of the line in the file; seconds: of a pass over the batch."""

    number: int
    source: Source
    setup: Setup
    seconds: float


def read_measurements(path: Path, fuse: bool) -> List[Measured]:
    """Read a table of measured models; raises DeviceError, with the file and the line, for what does not fit."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            names = [name.strip() for name in reader.fieldnames or []]
            rows = [dict(zip(names, (text or "" for text in row.values()))) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, error) from error
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise DeviceError(f"{path} has no column {missing[0]}; it takes model and ms, and may have imgsz and batch")
    found = [_line(path, number, row, fuse) for number, row in enumerate(rows, 2)]
    if not found:
        raise DeviceError(f"{path} holds no measurements")
    return found


def _line(path: Path, number: int, row: Dict[str, Any], fuse: bool) -> Measured:
    where = f"{path}, line {number}"
    try:
        seconds = float(row["ms"]) / 1e3
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise DeviceError(f"{where}: ms must be a number above 0, not {row['ms']!r}")
    size, batch = row.get("imgsz", "").strip(), row.get("batch", "").strip()
    try:
        setup = Setup(size_in(size.replace("x", " ")) if size else None, int(batch or 1), False, fuse)
    except ValueError:
        raise DeviceError(f"{where}: imgsz {size!r} and batch {batch!r} must be whole numbers from 1 up") from None
    if setup.batch < 1:
        raise DeviceError(f"{where}: batch must be a whole number from 1 up, not {batch}")
    try:
        source = find_one(row["model"].strip(), "not one")
    except ModelError as error:
        raise DeviceError(f"{where}: {error}") from error
    return Measured(number, source, setup, seconds)


def calibrate_board(
    arguments: argparse.Namespace, progress: Callable[..., Iterable[Any]]
) -> Tuple[Calibration, List[Measured]]:
    """Count the measured models and fit the board's constants; raises DeviceError for what does not fit."""
    runtime, precision, name = _board(arguments)
    lines = read_measurements(arguments.table, arguments.fuse)
    measured = []
    for line in progress(lines):
        where = f"{arguments.table}, line {line.number}: {line.source.text}"
        network = _deployed(line.source, line.setup, runtime, precision == "amp", arguments.decode, where)
        measured.append((network, line.seconds))
    return calibrate(measured, precision, name), lines


def _board(arguments: argparse.Namespace) -> Tuple[Runtime, str, str]:
    """The runtime, the precision and the name of what is calibrated; raises DeviceError."""
    runtime = find_runtime(arguments.runtime)
    precision = runtime.precision(arguments.precision)
    return runtime, precision, _name(arguments)


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
    one_by_one = len(calibration.ranges) == len(measured)
    columns = ["measured", "GFLOP/s", "by the others", "off", *(["range with it"] if one_by_one else [])]
    rows = []
    ratios = calibration.ratios or (math.nan,) * len(measured)
    for i, ((name, seconds), ratio, rate) in enumerate(zip(measured, ratios, calibration.rates)):
        times = f"{seconds * 1e3:.3f} ms", f"{rate / 1e9:.0f}"
        by_others = ("", "") if math.isnan(ratio) else (f"{seconds * ratio * 1e3:.3f} ms", f"x {ratio:.2f}")
        rows.append(Line([name, *times, *by_others, *([f"x {calibration.ranges[i]:.2f}"] if one_by_one else [])]))
    table = to_text(Grid([Column("network", is_text=True), *map(Column, columns)], rows, bare=True))
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
_LONGER, _UNLIKE, _FAR = (
    1.05,
    4.0,
    50.0,
)  # a pass without a profile: so much longer at most, shorter, or in another unit


def describe_log(learned: LogFit, matched: Matched, seconds: Optional[float]) -> str:
    """What of a log belongs to the network, what does not, and how far its layers are off after the fit."""
    times, pairs, calibration = learned.times, matched.pairs, learned.calibration
    odd = sorted(zip(pairs, times), key=lambda one: -abs(one[0].seconds - one[1]))[:_NAMED]
    columns = [Column(text) for text in ("measured", "fitted", "off")]
    rows = []
    for pair, time in odd:
        numbers = milliseconds(pair.seconds), milliseconds(time), f"x {time / pair.seconds:.2f}"
        rows.append(Line([pair.launches[0].layers[0] or THE_MODEL, *numbers]))
    table = to_text(Grid([Column("largest misfits", is_text=True), *columns], rows, bare=True))
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
