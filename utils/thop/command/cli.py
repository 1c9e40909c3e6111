"""What the command does, and what it prints."""

import argparse
import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, TextIO, Tuple, TypeVar

from ..answer import Rows, csv_of
from ..count.record import Recording
from ..deploy.bound import TimeBound, time_bound
from ..deploy.devices import THIS, Device, find_device, load_devices
from ..deploy.runtimes import DeviceError
from ..run import in_few_words
from ..show.comparison import (
    NAMES,
    OF_A_DEVICE,
    PREDICTED,
    USUAL,
    Comparison,
    Quantity,
    bound_all,
    comparison_text,
    dtypes_used,
)
from ..show.grid import Column, Grid, Line, fitted, to_text
from ..show.network_plot import network_figure
from ..show.plots import save_figure, time_figure
from ..show.predictions import THE_MODEL, advice, headline, milliseconds, time_table
from ..show.report import ALL_LEVELS, ModelInfo
from ..traffic import Traffic, traffic_of
from ..units import listed, readable_bytes, scaled
from .arguments import PROGRAM, BadInput, examples, parse
from .calibrate import add_to_file, calibrate_board, calibrate_log, calibrate_machine, describe, entry_of, file_text
from .checkout import ModelError
from .compare import arranged, count_all
from .models import Built, Setup, Source, counted, find, names
from .resolve import Place, resolve_arguments
from .train import describe_training, memory_of

T = TypeVar("T")

# ---- what it does ----


def _summary(arguments: argparse.Namespace) -> int:
    place = resolve_arguments(arguments)

    def count(built: Built) -> Tuple[Built, ModelInfo, str, Recording]:
        recorded = built.record()
        info = built.info(recorded)
        table = info.table(arguments.depth or ALL_LEVELS, arguments.sort)  # while the model is there
        return built, info, table, recorded.under(place.amp if place else False)

    source = _only(arguments, "'compare' takes several, 'summary' one")
    found = _tried(source, lambda: counted(source, _setup(arguments), count))
    if found is None:
        return 1
    built, info, table, recorded = found
    above: List[str] = []
    below: List[str] = []
    if place is not None:
        above, below = _times(place, recorded)
    lines = [*map(fitted, [_summary_line(source.name, built, info), *above]), table, *([""] if below else []), *below]
    form = _format(arguments)
    exports: Dict[str, Callable[..., str]] = {"json": info.to_json, "csv": info.to_csv, "markdown": info.to_markdown}
    _put(exports[form](depth=arguments.depth, sort=arguments.sort) if form in exports else "\n".join(lines), arguments)
    if arguments.plot:
        _draw_network(source.name, info.traffic, arguments.plot, place, above)
    return 0


def _only(arguments: argparse.Namespace, takes: str) -> Source:
    """Find the one model of a command."""
    sources = find([arguments.model])
    if len(sources) > 1:
        raise BadInput(f"{arguments.model} stands for {len(sources)} files; {takes}")
    _heads_stay(sources, arguments)
    return sources[0]


def _heads_stay(sources: Sequence[Source], arguments: argparse.Namespace) -> None:
    """Say of exported graphs that nothing can be cut off: nobody knows which of their nodes decode."""
    exported = [source.name for source in sources if source.kind == "onnx"]
    if exported and getattr(arguments, "decode", None) is False:
        _complain(f"{listed(exported)}: an export's heads are as they are in the file, --no-decode changes nothing")


def _tried(source: Source, count: Callable[[], T]) -> Optional[T]:
    """Count a model; None where that can't be done, and it was said why. Raises BadInput where there is no model."""
    try:
        return count()
    except ModelError as error:
        raise BadInput(f"{source.text}: {error}") from error
    except DeviceError:
        raise
    except Exception as error:
        _complain(f"{source.text}: could not be counted: {in_few_words(error)}")
    return None


def _draw_network(name: str, traffic: Traffic, path: Path, place: Optional[Place], said: Sequence[str]) -> None:
    """Draw a network's roofline, with what was said of its time on the device above it."""
    dtypes = dtypes_used([traffic])
    if place is None:
        print("measuring this machine for the roofline, for want of a --device", file=sys.stderr)
    bound = time_bound(traffic, place.device_for(dtypes) if place else find_device(THIS, None, dtypes))
    save_figure(network_figure(name, traffic, bound, said), path)


def _times(place: Place, recorded: Recording) -> Tuple[List[str], List[str]]:
    """The expected and the least time on a device: what stands above the table, and what below it.

    Raises DeviceError where neither is known.
    """
    try:
        prediction = place.predict(recorded)
    except DeviceError as error:
        if not place.device.bandwidth:
            raise
        traffic = traffic_of(recorded)
        bound = time_bound(traffic, place.device_for(dtypes_used([traffic])))
        return [f"no expected time: {error}", _bound_line(bound)], [_heaviest(bound)]
    least = place.least(prediction)
    above = [headline(prediction), *([_bound_line(least)] if least else [])]
    return above, [time_table(prediction), *advice(prediction)]


def _several(arguments: argparse.Namespace, with_bound: bool) -> int:
    """Count several models, and print them side by side, for ``compare`` with the least times."""
    place = resolve_arguments(arguments, must_predict=not with_bound)
    if arguments.sort in OF_A_DEVICE and not arguments.device:
        raise BadInput(f"--sort {arguments.sort} takes a --device")
    sources = find(arguments.model)
    _heads_stay(sources, arguments)
    called = names(sources)
    if arguments.baseline and arguments.baseline not in [*called, *(source.text for source in sources)]:
        raise BadInput(f"no model is called {arguments.baseline!r}, only {listed(called)}")
    rows = count_all(list(zip(called, sources)), _setup(arguments), _progress, place)
    ordered = arranged(sources, rows, arguments.sort, arguments.baseline)
    good = [row for row in rows if row.traffic]
    if place and good and with_bound:
        bound_all(good, place.device_for(dtypes_used([row.traffic for row in good if row.traffic])))
    quantities: Sequence[Quantity] = USUAL if with_bound else PREDICTED
    if with_bound and arguments.columns:
        quantities = [replace(NAMES[name], spare=0) for name in arguments.columns]
    _put(comparison_text(ordered, _format(arguments), quantities), arguments)
    if arguments.plot and good and with_bound:
        Comparison(Rows(good)).plot(arguments.plot)
    elif arguments.plot and good and place:
        _draw_prediction(sources[called.index(good[0].name)], good[0].name, arguments, place)
    failed = [row for row in rows if row.error]
    if failed:
        _complain(f"{len(failed)} of {len(rows)} models failed: {', '.join(row.name for row in failed)}")
    return 1 if failed else 0


def _put(text: str, arguments: argparse.Namespace) -> None:
    """Print a text, or write it to the file that was asked for."""
    text = text if text.endswith("\n") else f"{text}\n"
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


def _calibrate(arguments: argparse.Namespace) -> int:
    if arguments.here:
        calibration, told, source = calibrate_machine(arguments, _progress)
    elif arguments.log:
        calibration, told = calibrate_log(arguments, _progress)
        source = f"calibrate {arguments.log.name}"
    else:
        calibration, lines = calibrate_board(arguments, _progress)
        told = describe(calibration, [(line.source.name, line.seconds) for line in lines])
        source = f"calibrate {arguments.table.name}"
    print(told)
    entry = entry_of(calibration, f"{arguments.name}, calibrated", source)
    if arguments.output:
        add_to_file(arguments.output, calibration.name, entry)
        print(f"written to {arguments.output}: predict MODEL --device {calibration.name} --devices {arguments.output}")
    else:
        print(f"\n{file_text({calibration.name: entry})}", end="")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    memory = memory_of(arguments)
    setup = Setup(arguments.imgsz, max(arguments.batch, 1), inputs=arguments.inputs)
    source = _only(arguments, "'train' takes one")
    if source.kind == "onnx":
        raise BadInput(f"{source.text}: an export has no training; name the weights or the cfg that it was made of")
    told = _tried(source, lambda: describe_training(source, setup, arguments, memory))
    if told is None:
        return 1
    found, form = told.training, _format(arguments)
    exports: Dict[str, Callable[[], str]] = {
        "json": lambda: json.dumps({**json.loads(found.to_json()), **told.values}, indent=1),
        "markdown": found.to_markdown,
        "csv": lambda: csv_of(found.to_frame()),
    }
    _put(exports[form]() if form in exports else "\n".join([fitted(told.lines[0]), *told.lines[1:]]), arguments)
    return 0


def _devices(arguments: argparse.Namespace) -> int:
    devices, form = load_devices(arguments.devices), _format(arguments)
    if form in ("json", "csv"):
        rows = [row for device in devices.values() for row in _device_records(device)]
        _put(json.dumps(rows, indent=1) if form == "json" else _csv(rows), arguments)
        return 0
    lines = [line for device in devices.values() for line in _device_lines(device)]
    _put("\n".join([*lines, f"{THIS}: the machine that the command runs on, measured for half a second"]), arguments)
    return 0


def _csv(rows: Sequence[Dict[str, Any]]) -> str:
    from pandas import DataFrame

    return csv_of(DataFrame(list(rows)))


def _device_records(device: Device) -> List[Dict[str, Any]]:
    """A record for each figure of a device, in base units."""
    head = {"device": device.name, "title": device.title, "kind": device.kind}
    figures = {"bandwidth": device.bandwidth, "memory": device.memory, **device.peaks}
    rows = [
        {**head, "figure": name, "value": value, "source": device.sources.get(name, "")}
        for name, value in figures.items()
        if value
    ]
    for runtime, known in device.runtimes.items():
        for precision in known.precisions:
            what = {"figure": f"{runtime} {precision}", "value": known.constants(precision).peak}
            rows.append({**head, **what, "source": known.basis.source, "networks": known.basis.networks})
    return rows


def _setup(arguments: argparse.Namespace) -> Setup:
    return Setup(arguments.imgsz, arguments.batch, arguments.half, arguments.fuse, arguments.inputs)


def _format(arguments: argparse.Namespace) -> str:
    """The format that was asked for, or else the one that the file's name asks for."""
    if arguments.format != "text" or not arguments.output:
        return arguments.format
    by_suffix = {".csv": "csv", ".json": "json", ".md": "markdown", ".tex": "latex"}
    return by_suffix.get(arguments.output.suffix.lower(), "text")


def _draw_prediction(source: Source, name: str, arguments: argparse.Namespace, place: Place) -> None:
    """Draw where the time of the first model goes."""
    figure = counted(source, _setup(arguments), lambda built: time_figure(name, place.predict(built.record(place.amp))))
    save_figure(figure, arguments.plot)


def _progress(work: List[Any], unit: str = "model") -> Iterable[Any]:
    """Show a bar on stderr where somebody watches, and in a log where the work takes long."""
    watched = sys.stderr.isatty()
    try:
        from tqdm import tqdm
    except ImportError:
        return work
    pace = {"delay": 0.5} if watched else {"delay": 20, "mininterval": 20}
    return tqdm(work, unit=unit, file=sys.stderr, leave=False, **pace)


# ---- what it prints ----


def _summary_line(name: str, built: Built, info: ModelInfo) -> str:
    where = f"at {built.input}, {built.dtype}" + (f" ({built.remark()})" if built.remark() else "")
    peak = readable_bytes(info.traffic.peak_activation_bytes)
    return f"{name} {where}: {info.caption()}, {peak} of activations at the peak"


def _bound_line(bound: TimeBound) -> str:
    share = bound.memory_seconds / bound.seconds if bound.seconds else 0.0
    held = f"memory binds for {share:.0%} of it, arithmetic for {1 - share:.0%}"
    return f"{bound.device.title}: at least {milliseconds(bound.seconds)}; {held}"


def _heaviest(bound: TimeBound) -> str:
    """The layers that take most of the bounded time, in a short table."""
    texts = [Column(text, is_text=True) for text in ("binds", "module", "type")]
    lines = []
    for one in bound.heaviest():
        share = one.seconds / bound.seconds if bound.seconds else 0.0
        named = [one.binds, one.layer.path or THE_MODEL, one.layer.type]
        lines.append(Line([milliseconds(one.seconds), f"{share:.1%}", *named]))
    return to_text(Grid([Column("least time"), Column("share"), *texts], lines, bare=True))


def _device_lines(device: Device) -> List[str]:
    """A device's name, and a line for each figure with its source."""
    lines = [f"{device.name}: {device.title}"]
    for name, value in (("bandwidth", device.bandwidth), *device.peaks.items()):
        if not value:
            continue
        unit = "B/s" if name == "bandwidth" else "OP/s" if name.startswith("int") else "FLOP/s"
        number = scaled(value, "%.4g", " ")
        lines.append(f"  {name:<9}  {f'{number[:-1]} {number[-1]}{unit}':>12}  {device.sources.get(name, '')}")
    for runtime, known in device.runtimes.items():
        basis = known.basis
        lines.append(f"  {runtime} {', '.join(known.precisions)}: {basis.networks} networks: {basis.source}")
    return lines


def _complain(message: str) -> None:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; return the exit status: 0, 1 where a model was not counted, 2 for bad input."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a path may hold letters that the console lacks
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except (BadInput, ModelError, DeviceError) as error:
        _complain(str(error))
        return 2
    except BrokenPipeError:  # a pager was closed; Python would complain again at exit
        _discard(sys.stdout)
        return 0
    except KeyboardInterrupt:
        return 130
    except (OSError, ImportError) as error:
        _complain(in_few_words(error))
        return 1


def _run(argv: Sequence[str]) -> int:
    if not argv:
        print(examples())
        return 0
    try:
        arguments = parse(argv)
    except SystemExit as leaving:  # after --help
        return int(leaving.code or 0)
    return _COMMANDS[arguments.command](arguments)


_COMMANDS: Dict[str, Callable[[argparse.Namespace], int]] = {
    "summary": _summary,
    "compare": partial(_several, with_bound=True),
    "predict": partial(_several, with_bound=False),
    "calibrate": _calibrate,
    "train": _train,
    "devices": _devices,
}


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
