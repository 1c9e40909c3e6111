"""What the command takes: its commands, their arguments, and what is wrong with those that it was given."""

import argparse
import math
import re
from pathlib import Path
from typing import Any, Callable, Iterable, List, NoReturn, Optional, Sequence

from ..deploy.fits import memory_in
from ..deploy.measurements import TASKS
from ..deploy.runtimes import DeviceError, all_runtimes
from ..deploy.steps import optimizer_named
from ..show.comparison import NAMES
from ..show.comparison import SORTS as ORDERS
from ..show.modules import SORTS
from ..show.plots import SUFFIXES
from .choose import SIZES
from .models import Input, size_in

PROGRAM = f"python -m {__package__.rpartition('.')[0]}"
_MODELS = """\
MODEL is one of
  models/yolov5s.yaml      a YOLOv5 cfg, built by the checkout's own classes; 'models/**/*.yaml' for all that match
  runs/.../best.pt         a weights file (*.pt, *.pth), opened by the checkout's own loader
  best.onnx                an exported network, with the package onnx
  torchvision:resnet50     a model of torchvision, without weights; timm:resnet50 one of timm
  ultralytics:yolo11n.yaml a network of the package ultralytics
  package.module:function  a function that returns a torch.nn.Module; the current folder is searched first

A weights file runs code when it is opened, and YOLOv5 evaluates what a cfg says: name only files that you trust.
The checkout is the one that this command runs in, or else the one that the file lies in."""


_SIZES = ("--imgsz", "--img", "--img-size")


class BadInput(ValueError):
    """What was wrong on the command line, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (see --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM, description="What a model computes and what it moves: count it, compare it, bound its time."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_summary(commands)
    _add_compare(commands)
    _add_predict(commands)
    _add_choose(commands)
    _add_advise(commands)
    _add_calibrate(commands)
    _add_train(commands)
    devices = commands.add_parser("devices", help="list the devices that a time can be had for", description=(
        "List the devices that --device takes, by kind, or tell all that is known of one: bandwidth, peaks, networks"
        " measured under which runtime, and where each figure is published."
    ))  # fmt: skip
    words = "a device, or a word: those that have it in their name or title; gpu, cpu or npu; a runtime"
    devices.add_argument("word", nargs="?", default="", metavar="NAME", help=words)
    _add_devices_file(devices)
    _add_output(devices, ("csv", "json"))
    return parser


def _add_command(commands: Any, name: str, words: str) -> argparse.ArgumentParser:
    said, form = f"{words[0].upper()}{words[1:]}.", argparse.RawDescriptionHelpFormatter
    return commands.add_parser(
        name, help=words, description=said, epilog=_MODELS, formatter_class=form, allow_abbrev=False
    )


def _add_summary(commands: Any) -> None:
    summary = _add_command(commands, "summary", "show one model, module by module")
    summary.add_argument("model", metavar="MODEL")
    _add_setup(summary)
    _add_number(summary, "--depth", "levels of modules to show; all by default")
    _add_sort(summary, SORTS, "the largest first")
    _add_device(summary)
    _add_output(summary, ("csv", "json", "markdown"))
    _add_plot(summary, "draw the roofline and the accesses along the network; png|svg|pdf")


def _add_compare(commands: Any) -> None:
    compare = _add_command(commands, "compare", "show several models, a row each, and how they differ from the first")
    compare.add_argument("model", metavar="MODEL", nargs="+")
    _add_setup(compare)
    _add_device(compare)
    _add_formats(compare)
    compare.add_argument(
        "--columns", type=_columns, metavar="NAME,...",
        help=f"what a table for readers has: {', '.join(NAMES)}; all but multiply-adds by default; csv, json: all",
    )  # fmt: skip
    _add_plot(compare, "draw GFLOPs against memory accesses, as png, svg or pdf")


def _columns(words: str) -> List[str]:
    found = [word.strip().lower() for word in words.split(",")]
    unknown = [word for word in found if word not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no column is called '{unknown[0]}', only {', '.join(NAMES)}")
    return found


def _add_predict(commands: Any) -> None:
    predict = _add_command(commands, "predict", "predict the time that models take on a device, a row each")
    predict.add_argument("model", metavar="MODEL", nargs="+")
    _add_setup(predict)
    _add_device(predict, several=True)
    _add_formats(predict)
    _add_plot(predict, "draw where along the one MODEL the time goes, by what binds; png, svg or pdf")


def _add_advise(commands: Any) -> None:
    advise = _add_command(commands, "advise", "try what would make a model faster on a device, and what that costs")
    advise.add_argument("model", metavar="MODEL")
    _add_setup(advise)
    _add_device(advise, required=True)
    _add_output(advise, ("csv", "json", "markdown"))


def _add_choose(commands: Any) -> None:
    choose = _add_command(commands, "choose", "say which networks, at which sizes, are fast enough on a device")
    choose.add_argument("model", metavar="MODEL", nargs="*", help="the known YOLOs without one")
    wanted = choose.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--fps", type=rate, metavar="N", help="images a second that are wanted")
    wanted.add_argument("--ms", type=rate, metavar="N", help="or milliseconds that a pass may take")
    choose.add_argument("--family", default="", metavar="NAME", help="of the known YOLOs only these, as in yolov5")
    words = "what the known YOLOs are for; detect by default"
    choose.add_argument("--task", choices=tuple(TASKS), default="detect", help=words)
    sizes = f"sides of images to try; by default {', '.join(map(str, SIZES))}, 224 for classifiers"
    choose.add_argument(*_SIZES, type=whole_number, nargs="+", metavar="N", help=sizes)
    _add_number(choose, "--batch", "images at once", 1, "--batch-size")
    _add_number(choose, "--jobs", "processes that count", 1)
    _add_device(choose, required=True)
    choose.set_defaults(half=False)
    _add_output(choose, ("csv", "json", "markdown"))
    _add_plot(choose, "draw accuracy over time on the device; png, svg or pdf")


def _add_calibrate(commands: Any) -> None:
    calibrate = _add_command(commands, "calibrate", "make a device out of networks that you measured on your board")
    calibrate.add_argument(
        "table", type=Path, metavar="MEASURED.csv", nargs="?",
        help="columns model (a MODEL) and ms (milliseconds of a pass over the batch); optional: imgsz, batch",
    )  # fmt: skip
    calibrate.add_argument(
        "--log", type=Path, metavar="FILE",
        help="in its place the profile of one --model: RKNN's performance table, what trtexec --exportProfile writes, "
        "OpenVINO's detailed counters, ONNX Runtime's profile, what ncnn prints with NCNN_BENCHMARK",
    )  # fmt: skip
    calibrate.add_argument("--model", metavar="MODEL", help="of which the --log is")
    _add_images(calibrate, "of the --log; by default the model's usual one", 1)
    words = "milliseconds of a pass of the --model without profiling, if they are known too"
    calibrate.add_argument("--ms", type=rate, help=words)
    calibrate.add_argument(
        "--here", metavar="RUNTIME",
        help="in place of both, measure small networks on this machine for a minute, under a runtime that is installed "
        "here: onnxruntime, openvino, ncnn, tflite, pytorch or torch-compile",
    )  # fmt: skip
    _add_number(calibrate, "--threads", "that --here computes with; all cores by default")
    calibrate.add_argument("--name", required=True, help="what --device shall call it")
    _add_runtime(calibrate, "one of", "int8, float16, float32 or amp; the runtime's usual one")
    _add_fuse(calibrate)
    _add_file(calibrate, "add the device to a file for --devices; shown without")


def _one_way_to_calibrate(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check that there is a table of measured networks, or a log of one, or that some are to be measured here."""
    if sum(map(bool, (arguments.table, arguments.log, arguments.here))) != 1:
        parser.error("calibrate takes either MEASURED.csv, or --log FILE with --model MODEL, or --here RUNTIME")
    if not arguments.here and not arguments.runtime:
        parser.error("the following arguments are required: --runtime")
    if arguments.here and arguments.runtime:
        parser.error("--here names the runtime itself, without --runtime")
    if arguments.threads and not arguments.here:
        parser.error("--threads goes with --here")
    if bool(arguments.log) != bool(arguments.model):
        parser.error("--log and --model go together: the profile of a network")
    if not arguments.log and (arguments.ms or arguments.imgsz or arguments.batch > 1):
        parser.error("--ms, --imgsz and --batch go with --log; MEASURED.csv has columns for them")


def _add_train(commands: Any) -> None:
    train = _add_command(commands, "train", "count a training step: does it fit, its memory, the largest batch")
    train.add_argument("model", metavar="MODEL")
    _add_images(train, "the model's usual one, 640 for YOLOv5", 16, _batch_or_auto, "; -1: the largest that fits")
    _add_inputs(train)
    train.add_argument("--no-amp", dest="amp", action="store_false", help="without autocast to float16")
    train.add_argument("--optimizer", type=_optimizer, default="SGD", metavar="NAME", help="SGD by default, as YOLOv5")
    train.add_argument("--no-ema", dest="ema", action="store_false", help="without an average of the model beside it")
    train.add_argument("--no-val", dest="validate", action="store_false", help="without a validation after the epoch")
    summed = "batches that the gradients are summed up of; by default as train.py, round(64 / batch)"
    _add_number(train, "--accumulate", summed)
    _add_number(train, "--gpus", "that share the batch under DistributedDataParallel; the memory is that of one", 1)
    train.add_argument("--sync-bn", action="store_true", help="batch norms gather their statistics from all --gpus")
    _add_number(train, "--objects", "made-up objects an image that the loss is counted with", 20)
    train.add_argument(
        "--freeze", type=int, nargs="+", default=[], metavar="N", help="the first N layers, or these, as YOLOv5 does"
    )
    _add_number(train, "--images", "of an epoch, for hours on a --device")
    _add_number(train, "--epochs", "of --images, for hours of them all")
    train.add_argument("--memory", type=_memory, metavar="SIZE", help="of the GPU, as in 8GB")
    train.add_argument("--device", metavar="NAME", help="a GPU that the command 'devices' lists")
    _add_devices_file(train)
    _add_output(train, ("csv", "json", "markdown"))


def _optimizer(words: str) -> str:
    try:
        return optimizer_named(words)
    except DeviceError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_number(
    command: argparse.ArgumentParser, name: str, words: str, usual: Optional[int] = None, *others: str
) -> None:
    """Add a whole number from 1 up, with what it is by default."""
    said = words if usual is None else f"{words}; {usual} by default"
    command.add_argument(name, *others, type=whole_number, default=usual, metavar="N", help=said)


def _add_formats(command: argparse.ArgumentParser) -> None:
    _add_sort(command, ORDERS, "the smallest first")
    command.add_argument(
        "--baseline", metavar="NAME", help="the model that percentages are differences to; the first by default"
    )
    _add_output(command, tuple(_FORMATS))


_FORMATS = {
    "csv": "comma-separated values, in base units and unrounded",
    "json": "the same as a list of objects",
    "markdown": "a table for GitHub",
    "latex": "a table for a paper, with the package booktabs",
}


def _add_output(command: argparse.ArgumentParser, names: Sequence[str]) -> None:
    formats = command.add_mutually_exclusive_group()
    for name in names:
        formats.add_argument(f"--{name}", dest="format", action="store_const", const=name, help=_FORMATS[name])
    _add_file(command, "write it to a file, as its suffix says")
    command.set_defaults(format="text")


def _add_file(command: argparse.ArgumentParser, words: str) -> None:
    command.add_argument("--output", type=_writable, metavar="FILE", help=words)


def _add_plot(command: argparse.ArgumentParser, words: str) -> None:
    command.add_argument("--plot", type=_picture, metavar="FILE", help=words)


def _add_sort(command: argparse.ArgumentParser, names: Iterable[str], order: str) -> None:
    words = f"{order}, by one of: {', '.join(names)}"
    command.add_argument("--sort", choices=tuple(names), metavar="COLUMN", help=words)


def _add_images(command: argparse.ArgumentParser, usual: str, batch: int, kind: Any = None, more: str = "") -> None:
    size = f"image size, rounded up to the model's stride; {usual}"
    command.add_argument(*_SIZES, type=image_side, metavar="H [W]", help=size)
    words = f"images at once; {batch} by default{more}"
    command.add_argument("--batch", "--batch-size", type=kind or whole_number, default=batch, metavar="N", help=words)


def _batch_or_auto(words: str) -> int:
    return -1 if words == "-1" else whole_number(words)


def _add_setup(command: argparse.ArgumentParser) -> None:
    _add_images(command, "by default the model's usual one, 640 for YOLOv5", 1)
    _add_inputs(command)
    command.add_argument("--half", action="store_true", help="in float16")
    _add_fuse(command)


def _add_inputs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--inputs", nargs="+", default=[], metavar="N,C,H,W",
        help="what the model's forward takes: a shape for each argument, its type before it and the range of its values"
        " behind it if they matter, as in int64 1x128 0..30522; goes before --imgsz and --batch",
    )  # fmt: skip


def _add_fuse(command: argparse.ArgumentParser) -> None:
    command.add_argument("--fuse", action="store_true", help="after model.fuse(), as YOLOv5 runs inference")


def _add_device(command: argparse.ArgumentParser, several: bool = False, required: bool = False) -> None:
    words = "the time on a device: a name that the command 'devices' lists, or 'this' to measure this machine"
    more = "; may be given several times, or be all-npus, all-gpus, all-cpus or all, for one table of all"
    words, needed = words + more * several, required or several
    command.add_argument("--device", metavar="NAME", action="append", required=needed, help=words)
    _add_number(command, "--cores", "of the device's that compute, where it was measured with several")
    words = "of passes at once, for frames a second where they were measured: a number, or 'many'"
    command.add_argument("--streams", metavar="N", help=words)
    _add_runtime(command, "what runs the model there:", "in which: int8, float16, float32 or amp")
    _add_devices_file(command)


def _add_runtime(command: argparse.ArgumentParser, runtime: str, precision: str) -> None:
    """Add what runs a network, and how."""
    words = f"{runtime} {', '.join(all_runtimes())}"
    command.add_argument("--runtime", metavar="NAME", help=words)
    command.add_argument("--precision", metavar="NAME", help=precision)
    words = "decode a detector's predictions there, or end its heads at their last convolutions; as is usual, without"
    either = command.add_mutually_exclusive_group()
    either.add_argument("--decode", action="store_true", default=None, help=words)
    either.add_argument("--no-decode", dest="decode", action="store_false", help=argparse.SUPPRESS)


def _add_devices_file(command: argparse.ArgumentParser) -> None:
    words = "a file with devices of your own, in the form of devices.yaml"
    command.add_argument("--devices", metavar="FILE", help=words)


def _number(words: str) -> float:
    if not 0 < float(words) < math.inf:
        raise ValueError
    return float(words)


def _whole(words: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d*", words):
        raise ValueError
    return int(words)


def _reader(read: Callable[[str], Any], what: str) -> Callable[[str], Any]:
    """A type of arguments: how a word is read, and what it must be, which is said where that fails."""

    def told(words: str) -> Any:
        try:
            return read(words)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {what}, not '{words}'") from None

    return told


rate = _reader(_number, "a number above 0")
whole_number = _reader(_whole, "a whole number from 1 up")
image_side = _reader(
    size_in, "one or two whole numbers from 1 up"
)  # two as ``_join_size`` has made one argument of them
_memory = _reader(memory_in, "a size such as 8GB")


_TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")


def _inputs(words: Sequence[str]) -> List[Input]:
    """Read shapes, each with its type before it and the range of its values behind it, as far as they are given."""
    found: List[Input] = []
    dtype = ""
    for word in " ".join(words).split():
        if word in _TYPES:
            dtype = word
        elif re.fullmatch(r"0*[1-9]\d*([,x]0*[1-9]\d*)*", word):
            found.append(Input(tuple(int(number) for number in re.split("[,x]", word)), dtype))
            dtype = ""
        elif re.fullmatch(r"-?\d+\.\.-?\d+", word):
            low, high = map(int, word.split(".."))
            if not found or low >= high:
                raise BadInput("--inputs: a range such as 0..1000 follows the shape that it is for")
            found[-1] = found[-1]._replace(low=low, high=high)
        else:
            raise BadInput(f"--inputs: must be a shape such as 1,3,640,640, a type or a range, not '{word}'")
    if dtype:
        raise BadInput(f"--inputs: the type {dtype} stands before no shape")
    return found


def _picture(words: str) -> Path:
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


def examples() -> str:
    """Four commands that work in a checkout, for somebody who has typed the program's name alone."""
    return f"""\
What a model computes and what it moves. In a checkout of YOLOv5:

  {PROGRAM} compare 'models/yolov5*.yaml'                   # GFLOPs, memory accesses, traffic side by side
  {PROGRAM} predict models/yolov5s.yaml --device rk3588     # how long it takes there
  {PROGRAM} choose --device rk3588 --fps 30 --imgsz 640     # which network is fast enough there
  {PROGRAM} summary models/yolov5s.yaml                     # module by module

Others: advise, train, calibrate, devices; {PROGRAM} COMMAND --help says more."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; MODELs may stand before and after options, which argparse by itself does not allow."""
    parser = _parser()
    sized = argv if argv[:1] == ["choose"] else _join_size(argv)  # which takes any number of sizes
    arguments, rest = parser.parse_known_args(sized)
    if hasattr(arguments, "inputs"):
        arguments.inputs = _inputs(arguments.inputs)
    if arguments.command in ("compare", "predict", "choose") and not any(text.startswith("-") for text in rest):
        arguments.model += rest
    elif arguments.command in ("summary", "train", "advise") and rest and not rest[0].startswith("-"):
        parser.error(f"{arguments.command} takes one MODEL; compare shows several side by side")
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.command == "calibrate":
        _one_way_to_calibrate(arguments, parser)
    return arguments


def _join_size(argv: Sequence[str]) -> List[str]:
    """Make one argument of ``--imgsz 640 480``: argparse would take the MODEL after ``--imgsz 640`` for the width."""
    joined: List[str] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        joined.append(argument)
        if argument in _SIZES:
            sides: List[str] = []
            while len(sides) < 2 and rest and re.fullmatch(r"[-+]?[\d.]+", rest[0]):
                sides.append(rest.pop(0))
            if sides:
                joined[-1] = f"{argument}={' '.join(sides)}"
    return joined
