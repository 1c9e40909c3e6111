"""The command: what it takes, and what it prints."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any, Iterable, List, NoReturn, Optional, Sequence, TextIO, Tuple

from ..deploy.bound import LayerBound, TimeBound, time_bound
from ..deploy.devices import THIS, Device, DeviceError, find_device, load_devices
from ..run import in_few_words
from ..run.inputs import Size, as_size
from ..show.comparison import Row, bound_all, dtypes_used, to_csv, to_json
from ..show.comparison_table import latex_comparison, markdown_comparison, text_comparison
from ..show.report import ModelInfo
from ..show.tree import SORTS
from ..show.units import readable_bytes, scaled
from ..traffic import Traffic
from .checkout import ModelError
from .compare import count_all
from .models import Built, Setup, counted, find

PROGRAM = f"python -m {__package__.rpartition('.')[0]}"
_FORMATS = {
    "text": text_comparison,
    "csv": to_csv,
    "json": to_json,
    "markdown": markdown_comparison,
    "latex": latex_comparison,
}

_MODELS = """\
MODEL is one of
  models/yolov5s.yaml      a YOLOv5 cfg, built by the checkout's own classes; 'models/**/*.yaml' for all that match
  runs/.../best.pt         a weights file (*.pt, *.pth), opened by the checkout's own loader
  torchvision:resnet50     a model of torchvision, without weights
  package.module:function  a function that returns a torch.nn.Module; the current folder is searched first

A weights file runs code when it is opened, and YOLOv5 evaluates what a cfg says: name only files that you trust.
The checkout is the one that this command runs in, or else the one that the file lies in."""


class BadInput(ValueError):
    """What was wrong on the command line, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (see --help)")


# ---- what it takes ----


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM, description="What a model computes and what it moves: count it, compare it, bound its time."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_summary(commands)
    _add_compare(commands)
    devices = commands.add_parser("devices", help="list the devices that a time bound can be had for", description=(
        "List the devices that --device takes: memory bandwidth, peaks by precision, and where each is published."
    ))  # fmt: skip
    _add_devices_file(devices)
    devices.set_defaults(run=_devices)
    return parser


def _add_command(commands: Any, name: str, words: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=words,
        description=f"{words[0].upper()}{words[1:]}.",
        epilog=_MODELS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_summary(commands: Any) -> None:
    summary = _add_command(commands, "summary", "show one model, module by module")
    summary.add_argument("model", metavar="MODEL")
    _add_setup(summary)
    summary.add_argument("--depth", type=_whole_number, metavar="D", help="levels of modules to show; all by default")
    summary.add_argument(
        "--sort", choices=tuple(SORTS), metavar="COLUMN", help=f"the largest first, by one of: {', '.join(SORTS)}"
    )
    _add_device(summary)
    summary.add_argument(
        "--plot",
        type=_picture,
        metavar="FILE",
        help="draw the roofline and the accesses along the network; png|svg|pdf",
    )
    summary.set_defaults(run=_summary)


def _add_compare(commands: Any) -> None:
    compare = _add_command(commands, "compare", "show several models, a row each, and how they differ from the first")
    compare.add_argument("model", metavar="MODEL", nargs="+")
    _add_setup(compare)
    _add_device(compare)
    formats = compare.add_mutually_exclusive_group()
    for name, words in (
        ("csv", "comma-separated values, in base units and unrounded"),
        ("json", "the same as a list of objects"),
        ("markdown", "a table for GitHub"),
        ("latex", "a table for a paper, with the package booktabs"),
    ):
        formats.add_argument(f"--{name}", dest="format", action="store_const", const=name, help=words)
    compare.add_argument("--output", type=_writable, metavar="FILE", help="write the table to a file")
    words = "draw GFLOPs against memory accesses, as png, svg or pdf"
    compare.add_argument("--plot", type=_picture, metavar="FILE", help=words)
    compare.set_defaults(run=_compare, format="text")


def _add_setup(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--imgsz", "--img", "--img-size", type=_size, metavar="H [W]",
        help="image size, rounded up to the model's stride; 640 by default, 224 for torchvision",
    )  # fmt: skip
    command.add_argument(
        "--batch", "--batch-size", type=_whole_number, default=1, metavar="N", help="images at once; 1 by default"
    )
    command.add_argument(
        "--inputs", type=_shape, nargs="+", default=[], metavar="N,C,H,W",
        help="the shapes of all that the model's forward takes, one for each argument; goes before --imgsz and --batch",
    )  # fmt: skip
    command.add_argument("--half", action="store_true", help="in float16")
    command.add_argument("--fuse", action="store_true", help="after model.fuse(), as YOLOv5 runs inference")


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        metavar="NAME",
        help="bound the time on a device: a name that the command 'devices' lists, or 'this' to measure this machine",
    )
    _add_devices_file(command)


def _add_devices_file(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--devices", metavar="FILE", help="a file with devices of your own, in the form of devices.yaml"
    )


def _size(words: str) -> Size:
    """Read '640', or the '640 480' that ``_join_size`` has made of two arguments."""
    sides = words.split()
    try:
        return as_size([int(side) for side in sides] * (2 if len(sides) == 1 else 1))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be one or two whole numbers from 1 up, not '{words}'") from None


def _shape(words: str) -> Tuple[int, ...]:
    if not re.fullmatch(r"0*[1-9]\d*([,x]0*[1-9]\d*)*", words):
        raise argparse.ArgumentTypeError(f"must be a shape such as 1,3,640,640, not '{words}'")
    return tuple(int(number) for number in re.split("[,x]", words))


def _whole_number(words: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d*", words):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, not '{words}'")
    return int(words)


def _picture(words: str) -> Path:
    from ..show.plots import SUFFIXES

    if Path(words).suffix.lower() not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"'{words}' must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    return _writable(words)


def _writable(words: str) -> Path:
    """Check, before any work, that a file can be written, by opening it; what is in it is kept."""
    path = Path(words)
    new = not path.exists()
    try:
        with open(path, "ab"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"'{words}' can't be written: {error.strerror or error}") from None
    return path


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; MODELs may stand before and after options, which argparse by itself does not allow."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(_join_size(argv))
    if arguments.command == "compare" and not any(text.startswith("-") for text in rest):
        arguments.model += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _join_size(argv: Sequence[str]) -> List[str]:
    """Make one argument of ``--imgsz 640 480``: argparse would take the MODEL after ``--imgsz 640`` for the width."""
    joined: List[str] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        joined.append(argument)
        if argument in ("--imgsz", "--img", "--img-size"):
            sides: List[str] = []
            while len(sides) < 2 and rest and re.fullmatch(r"[-+]?[\d.]+", rest[0]):
                sides.append(rest.pop(0))
            if sides:
                joined[-1] = f"{argument}={' '.join(sides)}"
    return joined


# ---- what it does ----


def _summary(arguments: argparse.Namespace) -> int:
    _check_device(arguments)
    sources = find([arguments.model])
    if len(sources) > 1:
        raise BadInput(f"{arguments.model} stands for {len(sources)} files; 'compare' takes several, 'summary' one")
    source = sources[0]

    def count(built: Built) -> Tuple[Built, ModelInfo, str]:
        info = built.info()
        return built, info, info.table(arguments.depth, arguments.sort)

    try:
        built, info, table = counted(source, _setup(arguments), count)
        traffic = info.traffic
    except ModelError as error:
        raise BadInput(f"{source.text}: {error}") from error
    except Exception as error:
        _complain(f"{source.text}: could not be counted: {in_few_words(error)}")
        return 1
    bound = _bound(arguments, traffic)
    lines = [_summary_line(source.name, built, info), table]
    if bound is not None and arguments.device:
        lines = [lines[0], _bound_line(bound), table, "", *_heaviest(bound)]
    print("\n".join(lines))
    if bound is not None and arguments.plot:
        from ..show.plots import network_figure, save_figure

        save_figure(network_figure(source.name, traffic, bound), arguments.plot)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    _check_device(arguments)
    sources = find(arguments.model)
    rows = count_all(sources, _setup(arguments), _progress)
    good = [row for row in rows if row.traffic]
    if arguments.device and good:
        bound_all(good, _device(arguments, [row.traffic for row in good if row.traffic]))
    table = _FORMATS[_format(arguments)](rows)
    if arguments.output:
        arguments.output.write_text(table, encoding="utf-8")
    else:
        print(table, end="")
    if arguments.plot and good:
        _draw_comparison(good, arguments.plot)
    failed = [row for row in rows if row.error]
    if failed:
        _complain(f"{len(failed)} of {len(rows)} models failed: {', '.join(row.name for row in failed)}")
    return 1 if failed else 0


def _devices(arguments: argparse.Namespace) -> int:
    for device in load_devices(arguments.devices).values():
        print("\n".join(_device_lines(device)))
    print(f"{THIS}: the machine that the command runs on, measured for half a second")
    return 0


def _setup(arguments: argparse.Namespace) -> Setup:
    return Setup(arguments.imgsz, arguments.batch, arguments.half, arguments.fuse, arguments.inputs)


def _format(arguments: argparse.Namespace) -> str:
    """The format that was asked for, or else the one that the file's name asks for."""
    if arguments.format != "text" or not arguments.output:
        return arguments.format
    by_suffix = {".csv": "csv", ".json": "json", ".md": "markdown", ".tex": "latex"}
    return by_suffix.get(arguments.output.suffix.lower(), "text")


def _check_device(arguments: argparse.Namespace) -> None:
    """Raise DeviceError, before any work, for a device that there is not."""
    if arguments.device and arguments.device.strip().lower() != THIS:
        find_device(arguments.device, arguments.devices)
    elif arguments.devices:
        load_devices(arguments.devices)


def _device(arguments: argparse.Namespace, traffics: Iterable[Traffic]) -> Device:
    return find_device(arguments.device or THIS, arguments.devices, dtypes_used(traffics))


def _bound(arguments: argparse.Namespace, traffic: Traffic) -> Optional[TimeBound]:
    """The time bound where it is asked for, or needed for a picture."""
    if arguments.plot and not arguments.device:
        print("measuring this machine for the roofline, for want of a --device", file=sys.stderr)
    elif not arguments.device:
        return None
    return time_bound(traffic, _device(arguments, [traffic]))


def _draw_comparison(rows: Sequence[Row], path: Path) -> None:
    from ..show.plots import Point, comparison_figure, save_figure

    numbers = [row.numbers() for row in rows]
    points = [Point(row.name, found["gflops"], found["accesses"]) for row, found in zip(rows, numbers)]
    save_figure(comparison_figure(points), path)


def _progress(work: List[Any]) -> Iterable[Any]:
    """Show a bar on stderr where somebody watches, and in a log where the work takes long."""
    watched = sys.stderr.isatty()
    try:
        from tqdm import tqdm
    except ImportError:
        return work
    pace = {"delay": 0.5} if watched else {"delay": 20, "mininterval": 20}
    return tqdm(work, unit="model", file=sys.stderr, leave=False, **pace)


# ---- what it prints ----


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.{1 if seconds >= 0.01 else 3}f} ms"


def _summary_line(name: str, built: Built, info: ModelInfo) -> str:
    where = f"at {built.input}, {built.dtype}" + (f" ({built.remark()})" if built.remark() else "")
    peak = readable_bytes(info.traffic.peak_activation_bytes)
    return f"{name} {where}: {info.caption()}, {peak} of activations at the peak"


def _bound_line(bound: TimeBound) -> str:
    share = bound.memory_seconds / bound.seconds if bound.seconds else 0.0
    held = f"memory binds for {share:.0%} of it, arithmetic for {1 - share:.0%}"
    return f"{bound.device.title}: at least {_milliseconds(bound.seconds)}; {held}"


def _heaviest(bound: TimeBound) -> List[str]:
    """The layers that take most of the bounded time, in a short table."""
    rows = [_heaviest_row(layer, bound.seconds) for layer in bound.heaviest()]
    rows = [["least time", "share", "binds", "module", "type"], *rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    aligned = [[text.rjust(w) if i < 2 else text.ljust(w) for i, (text, w) in enumerate(zip(r, widths))] for r in rows]
    return ["  ".join(row).rstrip() for row in aligned]


def _heaviest_row(layer: LayerBound, total: float) -> List[str]:
    share = layer.seconds / total if total else 0.0
    row = layer.layer
    return [_milliseconds(layer.seconds), f"{share:.1%}", layer.binds, row.path or "(the model itself)", row.type]


def _device_lines(device: Device) -> List[str]:
    """A device's name, and a line for each figure with its source."""
    figures = [("bandwidth", device.bandwidth, "B/s")]
    figures += [(name, peak, "OP/s" if name.startswith("int") else "FLOP/s") for name, peak in device.peaks.items()]
    lines = [f"{device.name}: {device.title}"]
    for name, value, unit in figures:
        number = scaled(value, "%.4g", " ")
        lines.append(f"  {name:<9}  {f'{number[:-1]} {number[-1]}{unit}':>12}  {device.sources.get(name, '')}")
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
    try:
        arguments = _parse(argv)
    except SystemExit as leaving:  # after --help
        return int(leaving.code or 0)
    return arguments.run(arguments)


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
