"""What the command does, and what it prints."""

import argparse
import contextlib
import json
import os
import sys
from dataclasses import replace
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, TypeVar

from ..answer import csv_of, frame_of, json_of
from ..count.record import Recording
from ..deploy.bound import LayerBound, TimeBound, time_bound
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
    Quantity,
    comparison_text,
    dtypes_used,
)
from ..show.devices import device_records, device_text, devices_text, matching
from ..show.grid import Column, fitted, grid_of, to_text
from ..show.network_plot import network_figure
from ..show.plots import save_figure, time_figure
from ..show.predictions import THE_MODEL, advice_text, headline, milliseconds, time_table
from ..show.report import ALL_LEVELS, ModelInfo
from ..traffic import Traffic, traffic_of
from ..units import listed, readable_bytes
from .arguments import PROGRAM, BadInput, examples, parse
from .calibrate import add_to_file, calibrate_board, calibrate_log, calibrate_machine, describe, entry_of, file_text
from .checkout import ModelError
from .choose import choose
from .compare import compared
from .models import Built, Setup, Source, counted, find, find_one, names
from .resolve import Place, places_of
from .train import describe_training, memory_of

T = TypeVar("T")

# ---- what it does ----


def _summary(arguments: argparse.Namespace) -> int:
    place = next(iter(places_of(arguments)), None)

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
    _put_answer(info, "\n".join(lines), arguments, depth=arguments.depth, sort=arguments.sort)
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
    places = places_of(arguments, must_predict=not with_bound, several=not with_bound)
    if arguments.plot and len(places) > 1:
        raise BadInput("--plot draws one device: name one --device")
    if arguments.plot and not with_bound and len(arguments.model) > 1:
        raise BadInput("--plot draws one model's time: name one, or compare them")
    if arguments.sort in OF_A_DEVICE and not places:
        raise BadInput(f"--sort {arguments.sort} takes a --device")
    sources = find(arguments.model)
    _heads_stay(sources, arguments)
    named = dict(zip(names(sources), sources))
    order = arguments.sort, arguments.baseline
    found = compared(list(named.items()), _setup(arguments), places, *order, None, _progress, with_bound)
    quantities: Sequence[Quantity] = USUAL if with_bound else PREDICTED
    if with_bound and arguments.columns:
        quantities = [replace(NAMES[name], spare=0) for name in arguments.columns]
    _put(comparison_text(found.rows, _format(arguments), quantities), arguments)
    good = [row.name for row in found.rows if row.traffic]
    if arguments.plot and good and with_bound:
        found.plot(arguments.plot)
    elif arguments.plot and good:
        (place,), name = places, good[0]
        predicted = counted(named[name], _setup(arguments), lambda built: place.predict(built.record(place.amp)))
        save_figure(time_figure(name, predicted), arguments.plot)
    bad = [row for row in found.rows if row.error and (len(places) < 2 or not row.device) and not row.published]
    failed = list(dict.fromkeys(row.name for row in bad))
    if failed:
        _complain(f"{len(failed)} of {len(sources)} models failed: {', '.join(failed)}")
    return 1 if failed else 0


def _advise(arguments: argparse.Namespace) -> int:
    (place,) = places_of(arguments, must_predict=True)
    source = _only(arguments)
    found = _tried(source, _setup(arguments), lambda built: advise(place.predict(built.record(place.amp))))
    if found is None:
        return 1
    _put_answer(found, "\n".join([f"{source.name} on {headline(found.before)}", advice_text(found)]), arguments)
    return 0


def _choose(arguments: argparse.Namespace) -> int:
    a = arguments
    (place,) = places_of(a, must_predict=True)
    found = choose(a.model or None, device=place, fps=a.fps, ms=a.ms, imgsz=a.imgsz, batch=a.batch, family=a.family,
                   task=a.task, jobs=a.jobs, progress=_progress)  # fmt: skip
    _put_answer(found, "\n".join([choice_headline(found), to_text(choice_grid(found), 120)]), a)
    if a.plot:
        found.plot(a.plot)
    return 0 if any(not row.error for row in found.rows) else 1


def _put_answer(
    found: Any, text: str, arguments: argparse.Namespace, beside: Optional[Dict[str, Any]] = None, **choice: Any
) -> None:
    """Print an answer as a text, or in the format that was asked for; ``choice``: of its rows.

    beside: what goes beside it into JSON.
    """
    form = _format(arguments)
    if form == "json":
        text = json.dumps({**json.loads(found.to_json(**choice)), **(beside or {})}, indent=1)
    elif form in ("markdown", "csv"):
        text = found.to_markdown(**choice) if form == "markdown" else csv_of(found.to_frame(**choice))
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
    _put_answer(told.training, told.text, arguments, told.values)
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
        _put(json_of(rows) if form == "json" else csv_of(frame_of(rows)), arguments)
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


def _progress(work: List[Any], unit: str = "model") -> Iterable[Any]:
    """Show a bar on stderr where somebody watches."""
    if not sys.stderr.isatty():
        return work
    from tqdm import tqdm

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
    whole = bound.seconds or 1.0
    columns: List[Tuple[Column, Callable[[LayerBound], str]]] = [
        (Column("module", is_text=True), lambda one: one.layer.path or THE_MODEL),
        (Column("type", is_text=True), lambda one: one.layer.type),
        (Column("least time"), lambda one: milliseconds(one.seconds)),
        (Column("share"), lambda one: f"{one.seconds / whole:.1%}"),
        (Column("binds", is_text=True), lambda one: one.binds),
    ]
    return to_text(grid_of(columns, bound.heaviest()))


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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
