"""What the command does, and what it prints."""

import argparse
import contextlib
import json
import os
import sys
from dataclasses import replace
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, TextIO, Tuple, TypeVar

from ..answer import Answer, Rows, csv_of
from ..count.record import Recording
from ..deploy.bound import TimeBound, time_bound
from ..deploy.changes import advise
from ..deploy.devices import THIS, find_device, load_devices
from ..deploy.runtimes import DeviceError
from ..run import in_few_words
from ..show.choice import choice_grid, choice_headline
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
    sort_rows,
)
from ..show.devices import device_records, device_text, devices_text, matching
from ..show.grid import Column, Grid, Line, fitted, to_text
from ..show.network_plot import network_figure
from ..show.plots import save_figure, time_figure
from ..show.predictions import THE_MODEL, advice_text, headline, milliseconds, time_table
from ..show.report import ALL_LEVELS, ModelInfo
from ..traffic import Traffic, traffic_of
from ..units import listed, readable_bytes
from .arguments import PROGRAM, BadInput, examples, parse
from .calibrate import add_to_file, calibrate_board, calibrate_log, calibrate_machine, describe, entry_of, file_text
from .checkout import ModelError
from .choose import choose_on, limit_of
from .compare import arranged, count_all
from .models import Built, Setup, Source, counted, find, find_one, names
from .resolve import Place, resolve_all, resolve_one
from .train import describe_training, memory_of

T = TypeVar("T")

# ---- what it does ----


def _summary(arguments: argparse.Namespace) -> int:
    place = resolve_one(arguments)

    def count(built: Built) -> Tuple[Built, ModelInfo, str, Recording]:
        recorded = built.record()
        info = built.info(recorded)
        table = info.table(arguments.depth or ALL_LEVELS, arguments.sort)  # while the model is there
        return built, info, table, recorded.under(place.amp if place else False)

    source = _only(arguments)
    found = _tried(source, _setup(arguments), count)
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
        _draw_network(source.name, info.traffic, arguments, place, above)
    return 0


def _only(arguments: argparse.Namespace) -> Source:
    """Find the one model of a command."""
    source = find_one(arguments.model, f"and '{arguments.command}' takes one; 'compare' takes several")
    _heads_stay([source], arguments)
    return source


def _heads_stay(sources: Sequence[Source], arguments: argparse.Namespace) -> None:
    """Say of exported graphs that nothing can be cut off: nobody knows which of their nodes decode."""
    exported = [source.name for source in sources if source.kind == "onnx"]
    if exported and getattr(arguments, "decode", None) is False:
        _complain(f"{listed(exported)}: an export's heads are as they are in the file, --no-decode changes nothing")


def _tried(source: Source, setup: Setup, count: Callable[[Built], T]) -> Optional[T]:
    """Count a model; None where that can't be done, and it was said why. Raises BadInput where there is no model."""
    try:
        return counted(source, setup, count)
    except ModelError as error:
        raise BadInput(f"{source.text}: {error}") from error
    except DeviceError:
        raise
    except Exception as error:
        _complain(f"{source.text}: could not be counted: {in_few_words(error)}")
    return None


def _draw_network(
    name: str, traffic: Traffic, arguments: argparse.Namespace, place: Optional[Place], said: Sequence[str]
) -> None:
    """Draw a network's roofline, with what was said of its time on the device above it."""
    dtypes = dtypes_used([traffic])
    if place is None:
        print("measuring this machine for the roofline, for want of a --device", file=sys.stderr)
    bound = time_bound(traffic, place.device_for(dtypes) if place else find_device(THIS, None, dtypes))
    save_figure(network_figure(name, traffic, bound, said, arguments.depth), arguments.plot)


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
    return above, [time_table(prediction), "", advice_text(advise(prediction))]


def _several(arguments: argparse.Namespace, with_bound: bool) -> int:
    """Count several models, and print them side by side, for ``compare`` with the least times."""
    one = resolve_one(arguments) if with_bound else None
    places = resolve_all(arguments) if not with_bound else [one] if one else []
    if arguments.plot and len(places) > 1:
        raise BadInput("--plot draws one device: name one --device")
    if arguments.sort in OF_A_DEVICE and not places:
        raise BadInput(f"--sort {arguments.sort} takes a --device")
    sources = find(arguments.model)
    _heads_stay(sources, arguments)
    called = names(sources)
    if arguments.baseline and arguments.baseline not in [*called, *(source.text for source in sources)]:
        raise BadInput(f"no model is called {arguments.baseline!r}, only {listed(called)}")
    rows = count_all(list(zip(called, sources)), _setup(arguments), _progress, places)
    if len(places) > 1:
        ordered = sort_rows(rows, arguments.sort or "time")
    else:
        ordered = arranged(sources, rows, arguments.sort, arguments.baseline)
    good = [row for row in rows if row.traffic]
    if one and good:
        bound_all(good, one.device_for(dtypes_used([row.traffic for row in good if row.traffic])))
    quantities: Sequence[Quantity] = USUAL if with_bound else PREDICTED
    if with_bound and arguments.columns:
        quantities = [replace(NAMES[name], spare=0) for name in arguments.columns]
    _put(comparison_text(ordered, _format(arguments), quantities), arguments)
    if arguments.plot and good and with_bound:
        Comparison(Rows(good)).plot(arguments.plot)
    elif arguments.plot and good:
        _draw_prediction(sources[called.index(good[0].name)], good[0].name, arguments, places[0])
    failed = list(
        dict.fromkeys(
            row.name for row in rows if row.error and (len(places) < 2 or not row.device) and not row.published
        )
    )
    if failed:
        _complain(f"{len(failed)} of {len(sources)} models failed: {', '.join(failed)}")
    return 1 if failed else 0


def _advise(arguments: argparse.Namespace) -> int:
    place = resolve_one(arguments, must_predict=True)
    assert place is not None  # a device is required
    source = _only(arguments)
    found = _tried(source, _setup(arguments), lambda built: advise(place.predict(built.record(place.amp))))
    if found is None:
        return 1
    _put_answer(found, "\n".join([f"{source.name} on {headline(found.before)}", advice_text(found)]), arguments)
    return 0


def _choose(arguments: argparse.Namespace) -> int:
    a = arguments
    place, limit = resolve_one(a, must_predict=True), limit_of(a.fps, a.ms, a.batch)
    assert place is not None  # a device is required
    found = choose_on(place, a.model or None, limit, a.imgsz, a.batch, a.family, a.task, a.jobs, _progress)
    _put_answer(found, "\n".join([choice_headline(found), to_text(choice_grid(found), 120)]), a)
    if a.plot:
        found.plot(a.plot)
    return 0 if any(not row.error for row in found.rows) else 1


def _put_answer(found: Answer, text: str, arguments: argparse.Namespace, **beside: Any) -> None:
    """Print an answer as a text, or in the format that was asked for, with what goes beside it into JSON."""
    form = _format(arguments)
    if form == "json":
        text = json.dumps({**json.loads(found.to_json()), **beside}, indent=1)
    elif form in ("markdown", "csv"):
        text = found.to_markdown() if form == "markdown" else csv_of(found.to_frame())
    _put(text, arguments)


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
        calibration, told = calibrate_log(arguments)
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
    source = _only(arguments)
    if source.kind == "onnx":
        raise BadInput(f"{source.text}: an export has no training; name the weights or the cfg that it was made of")
    told = _tried(source, setup, partial(describe_training, source, setup, arguments, memory))
    if told is None:
        return 1
    _put_answer(told.training, "\n".join([fitted(told.lines[0]), *told.lines[1:]]), arguments, **told.values)
    return 0


def _devices(arguments: argparse.Namespace) -> int:
    known, form = load_devices(arguments.devices), _format(arguments)
    one = None
    if arguments.word not in ("", THIS):
        with contextlib.suppress(DeviceError):
            one = find_device(arguments.word, arguments.devices)
    shown = [one] if one else matching(known, arguments.word)
    if form in ("json", "csv"):
        rows = [row for device in shown for row in device_records(device)]
        from pandas import DataFrame

        _put(json.dumps(rows, indent=1) if form == "json" else csv_of(DataFrame(rows)), arguments)
    else:
        _put(device_text(one) if one else devices_text(shown), arguments)
    return 0


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
    """Show a bar on stderr where somebody watches."""
    if not sys.stderr.isatty():
        return work
    try:
        from tqdm import tqdm
    except ImportError:
        return work
    return tqdm(work, unit=unit, file=sys.stderr, leave=False, delay=0.5)


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
    "choose": _choose,
    "advise": _advise,
    "calibrate": _calibrate,
    "train": _train,
    "devices": _devices,
}


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
