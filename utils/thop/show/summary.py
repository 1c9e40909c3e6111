"""The summary line: what the checkout's own ``model_info`` prints, with our count in it.

Every YOLOv5 and every fork takes arguments, words its line and returns values in a way of its own. So its function
runs as it stands, with the caller's own arguments, while we stand beside it; what it prints gets the memory accesses
added, and what it returns is what comes back.
"""

import inspect
import math
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from torch import nn

from ..count.record import Recording, record
from ..profile import Profile, profile
from ..run import in_few_words, is_of_a_signal, modes_aside, network_of, unwrap
from ..run.inputs import (
    Size,
    as_inputs,
    as_model,
    as_size,
    fitting_size,
    image_size,
    images_for,
    like_given,
    resized,
    usual_size,
)
from ..units import kinds_not_counted
from .beside import Listener, beside, is_mute, loggers_of
from .modules import check_choice
from .report import ModelInfo, accesses, sizes_of

DEFAULT: Size = (640, 640)
UNSAID: Any = inspect.Parameter.empty
_SMALL_IMAGE = 128 * 128
"""Pixels up to which an image stands for a larger one, whose figure is multiplied from it."""


class Count:
    """The counts of one model at any size, each made once; ``given`` is what a checkout runs it on."""

    def __init__(self, model: nn.Module, given: Optional[Tuple[Any, ...]] = None) -> None:
        self.model, self.given = model, given
        self._done: Dict[Size, Recording] = {}

    def recorded(self, size: Size) -> Recording:
        """Record a run at a size; raises whatever the model's forward raises."""
        if size not in self._done:
            self._done[size] = record(self.model, self._images(size))
        return self._done[size]

    def _images(self, size: Size) -> Tuple[Any, ...]:
        return images_for(self.model, size) if self.given is None else resized(self.given, size, self.model)

    def at(self, size: Size) -> Profile:
        """Count at a size; raises whatever the model's forward raises."""
        return Profile.of(self.recorded(size).layers)

    def answer(self, size: Size, shown: Size) -> float:
        """Return the operations on the image ``shown``; of a window that is larger, a share of those at ``size``."""
        try:
            if shown not in self._done:  # of which nobody will ask more
                return profile(self.model, self._images(shown), verbose=False).total_ops
            return self.at(shown).total_ops
        except Exception as error:
            if is_of_a_signal(error):
                raise
        return self.at(size).total_ops * _area(shown) / _area(size)

    def info(self, size: Optional[Size], error: str = "", layers: int = 0, of: Optional[nn.Module] = None) -> ModelInfo:
        """Put the numbers together, with the parameters of ``of``; where there is no count, ``error`` says why."""
        sizes = sizes_of(self.model if of is None else of)
        recorded = None
        try:
            recorded = None if size is None else self.recorded(size)
        except Exception as reason:
            if is_of_a_signal(reason):
                raise
            error = in_few_words(reason)
        error = error if recorded is None else ""
        return ModelInfo(layers or sizes.layers, sizes.parameters, sizes.gradients, size, recorded, error)


def _area(size: Size) -> int:
    return size[0] * size[1]


# ---- what was asked for, in the words of the checkout's own function ----


class Asked(NamedTuple):
    """A call of ``model_info``.

    args, kwargs: what the checkout's function gets after the model; size: the image size as it was given, or that is
    the function's own default, UNSAID where neither is known; takes_size: whether the function hears of it;
    is_other: whether it is another than the function's own; table: whether the table of modules is wanted; depth, sort:
    what of it.
    """

    args: Tuple[Any, ...]
    kwargs: Dict[str, Any]
    size: Any
    takes_size: bool
    is_other: bool
    table: bool
    depth: Any = None
    sort: Any = None


_SIZES = ("imgsz", "img_size")
_OURS = (*_SIZES, "verbose", "detailed", "depth", "sort")


def _own(
    model: Any,
    verbose: Any = False,
    img_size: Any = 640,
    imgsz: Any = None,
    detailed: Any = False,
    depth: Any = None,
    sort: Any = None,
) -> None:
    """Stand for the arguments that ``model_info`` takes where a checkout has no function of this name."""


def understand(checkout: Any, model: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Asked:
    """Part a caller's arguments into the checkout's and ours; raises TypeError for what neither takes."""
    if checkout is None:
        bound = inspect.signature(_own).bind(model, *args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        size = given["img_size"] if given["imgsz"] is None else given["imgsz"]
        table = bool(given["verbose"] or given["detailed"])
        return Asked((), {}, size, True, False, table, given["depth"], given["sort"])
    signature = _signature(checkout)
    taken, rest = _parted(signature, kwargs)
    bound = signature.bind(model, *args, **taken)
    said = dict(bound.arguments)
    bound.apply_defaults()
    values = bound.arguments
    name = next((name for name in _SIZES if name in values), "")
    size = values[name] if name else next((rest[other] for other in _SIZES if rest.get(other) is not None), UNSAID)
    if name:
        args, taken = _fitting(signature, model, name, size, args, taken)
    tabled = [next((values[word] for word in ("detailed", "verbose") if word in values), False)]
    tabled += [rest.get("verbose"), rest.get("detailed"), "detailed" not in said and said.get("verbose")]
    is_other = _is_other(size, signature.parameters[name].default) if name else size is not UNSAID
    return Asked(args, taken, size, bool(name), is_other, any(tabled), rest.get("depth"), rest.get("sort"))


def _is_other(size: Any, default: Any) -> bool:
    try:
        return as_size(size) != as_size(default)
    except ValueError:
        return size is not default


def _signature(function: Any) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return inspect.signature(lambda *args, **kwargs: None)


def _parted(signature: inspect.Signature, kwargs: Dict[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Return the named arguments that the checkout's function takes, and those that are ours alone."""
    names = signature.parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in names.values())
    taken: Dict[str, Any] = {}
    rest: Dict[str, Any] = {}
    for name, value in kwargs.items():
        own = name in names or (takes_any and name not in ("depth", "sort")) or name not in _OURS
        (taken if own else rest)[name] = value
    for name, other in (_SIZES, _SIZES[::-1], ("detailed", "verbose")):  # the same by another name
        if name in rest and other in names and other not in taken:
            taken[other] = rest.pop(name)
    return taken, rest


def _fitting(
    signature: inspect.Signature, model: Any, name: str, size: Any, args: Tuple[Any, ...], taken: Dict[str, Any]
) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    """Hand on a size as it was given, or one in the same form that the model's stride divides."""
    try:
        fitting = fitting_size(unwrap(model), size)
        if fitting == as_size(size):
            return args, taken
    except ValueError:
        return args, taken
    position = list(signature.parameters).index(name) - 1
    if position < len(args):
        return (*args[:position], like_given(fitting, size), *args[position + 1 :]), taken
    return args, {**taken, name: like_given(fitting, size)}


# ---- the line ----

_NUMBER = r"(?P<number>\d+(?:\.\d+)?)"
_FLOPS = (
    re.compile(_NUMBER + r"\s*[GMB]?\s*FLOPs?\b", re.IGNORECASE),
    re.compile(r"FLOPs?\b[^\w\d]{0,4}" + _NUMBER, re.IGNORECASE),
)
_FACT = re.compile(
    r"[\d.,]+\s*[KMGB]?\s*(?:layers|param\w*|gradients)\b|\b(?:layers|param\w*|gradients)\b[^\w\d]{1,4}[\d.,]+",
    re.IGNORECASE,
)
_LAYERS = re.compile(r"([\d,]+)\s*layers\b|\blayers\b[^\w\d]{1,4}([\d,]+)", re.IGNORECASE)
_END = re.compile(r"(?:\s|\x1b\[[\d;]*m)*\Z")
"""What ends a line without being read: white space, and the codes that end a colour."""


def find_figure(line: str) -> Optional["re.Match[str]"]:
    """Find the GFLOPs in a line: the number, and the word that belongs to it."""
    return next(filter(None, (pattern.search(line) for pattern in _FLOPS)), None)


def find_line(texts: List[str]) -> Optional[Tuple[int, int]]:
    """Find the summary line: the last one with FLOPs, or else with layers, parameters or gradients, and a number.

    Returns which text it is in, and which of its lines it is.
    """
    for is_one in (find_figure, _FACT.search):
        for i in reversed(range(len(texts))):
            lines = texts[i].split("\n")
            for j in reversed(range(len(lines))):
                if is_one(lines[j]):
                    return i, j
    return None


class Summary:
    """One call of ``model_info``: what it counts, and what it makes of the checkout's line."""

    def __init__(self, model: nn.Module, asked: Asked) -> None:
        self.asked, self.model = asked, model
        self.count = Count(model)
        self.error = ""
        self.shown: Optional[Size] = None  # the image that the checkout has handed to thop
        self.answered = False  # whether it was told the operations on that image
        self.without_thop = False
        self.differs = False  # whether the line has two figures
        self.size: Optional[Size] = None
        try:
            self.size = fitting_size(model, DEFAULT if asked.size is UNSAID else asked.size)
        except ValueError as error:
            self.error = in_few_words(error)

    # ---- thop ----

    def answer(self, real: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Answer the checkout's call of ``thop.profile`` with what thop would say; the real one does if we can't."""
        try:
            model, inputs, custom_ops, more = _thop_arguments(*args, **kwargs)
        except TypeError:
            if real is None:
                raise
            return real(*args, **kwargs)
        if more and real is not None:
            return real(*args, **kwargs)
        try:
            if self.size is None:
                raise RuntimeError(self.error)
            if custom_ops or type(unwrap(model)) is not type(self.model):  # what is of its class is a copy of it
                another = profile(model, inputs, custom_ops, verbose=False)
                return another.total_ops, another.total_params
            self._take_over(model, inputs)
            counted = self.count.at(self.size)
            total_ops = self.count.answer(self.size, self.shown or self.size)
            self.answered = True
            return total_ops, counted.total_params
        except Exception as error:
            self.error = self.error or in_few_words(error)
            if is_of_a_signal(error):
                self.size = None  # nobody counts again what somebody has stopped
                raise
            if real is None:
                raise
            return real(*args, **kwargs)

    def _take_over(self, handed: nn.Module, inputs: Any) -> None:
        """Count on the checkout's own inputs, at the size that was asked for, or that they have."""
        handed = unwrap(handed)
        if handed is not self.model and _make(handed) == _make(self.model):
            handed = self.model  # of which it is a copy; one that was fused is another network
        self.count = Count(handed, tuple(inputs))
        self.shown = image_size(inputs)
        if self.shown and self.asked.size is UNSAID and _area(self.shown) > _SMALL_IMAGE:
            self.size = self.shown

    # ---- what is printed ----

    def words(self, line: str) -> str:
        """Return a checkout's line with our words in it."""
        figure = find_figure(line)
        if figure is not None:
            line = self._with_ours(line, figure)
        end = _END.search(line)
        assert end is not None
        return line[: end.start()] + self.addition(figure is not None) + line[end.start() :]

    def _with_ours(self, line: str, figure: "re.Match[str]") -> str:
        """Put our GFLOPs beside the checkout's where they are others after rounding.

        They stand in its place where it has none, for want of thop, or is of another size than was asked for.
        """
        theirs = figure["number"]
        missing = not self.answered and self.without_thop and not float(theirs)
        counted = self.counted() if self.answered or missing else None
        decimals = len(theirs.partition(".")[2])
        ours = theirs if counted is None else f"{2e-9 * counted.total_ops:.{decimals}f}"
        if ours == theirs:
            return line
        if missing or self.asked.is_other:
            return line[: figure.start("number")] + ours + line[figure.end("number") :]
        self.differs = True
        return f"{line[: figure.end()]} ({ours} exact){line[figure.end() :]}"

    def addition(self, flops_shown: bool) -> str:
        """What follows the checkout's own words: GFLOPs if they lack them, the accesses, and the size if it differs."""
        counted = self.counted()
        if counted is None or self.size is None:
            return f", {'' if flops_shown else 'GFLOPs and '}memory accesses not counted ({self.error})"
        parts = [accesses(counted.total_kernel_macs, counted.total_output_macs)]
        if not flops_shown:
            parts.insert(0, f"{counted.total_ops * 2 / 1e9:.1f} GFLOPs")
        wanted = DEFAULT if self.asked.size is UNSAID else as_size(self.asked.size)
        if self.size != wanted:
            rounded_up = self.size == fitting_size(self.model, wanted)
            reason = " ({}x{} is no multiple of the stride)".format(*wanted) if rounded_up else ""
            parts.append("at {}x{}".format(*self.size) + reason)
        elif not self.asked.takes_size and (self.asked.size is not UNSAID or self.differs):
            parts.append("at {}x{}".format(*self.size))  # the checkout's own may be another
        not_counted = kinds_not_counted(counted.missing)
        return "".join(f", {part}" for part in parts) + f" {not_counted}" * bool(not_counted)

    def counted(self) -> Optional[Profile]:
        """Return the count at the size that the line speaks of; None where there is none, and ``error`` says why."""
        if self.size is None:
            return None
        try:
            return self.count.at(self.size)
        except Exception as error:
            if is_of_a_signal(error):
                raise
            self.error = self.error or in_few_words(error)
        if self.count.given is not None:  # which the checkout's own thop can't run on either
            with suppress(Exception):
                by_forward = Count(self.model)
                counted = by_forward.at(self.size)
                self.count, self.error = by_forward, ""
                return counted
        return None

    def own_line(self) -> str:
        """Return a line of ours, where the checkout has none."""
        name = Path(str(getattr(self.model, "yaml_file", "Model"))).stem.replace("yolov5", "YOLOv5")
        layers, parameters, gradients = sizes_of(self.model)
        facts = f"{layers} layers, {parameters} parameters, {gradients} gradients"
        return f"{name} summary: {facts}{self.addition(False)}"


def _make(model: nn.Module) -> Tuple[List[type], List[Any]]:
    """Return what tells one network from another: its modules' classes and its parameters' shapes."""
    return [type(module) for module in model.modules()], [p.shape for p in model.parameters()]


def _thop_arguments(
    model: Any, inputs: Any, custom_ops: Any = None, verbose: bool = True, **more: Any
) -> Tuple[Any, Any, Any, Any]:
    """Take the arguments of ``thop.profile``; more: those of its descendants, which say how it is to estimate."""
    return model, inputs, custom_ops, more


def show_summary(checkout: Any, emit: Callable[[str], None], model: nn.Module, args: Any, kwargs: Any) -> Any:
    """Do what the checkout's ``model_info`` does, with our count in the line that it prints.

    checkout: that function, or None where there is none; emit: prints a text where it does not; args and kwargs: the
    caller's, after the model. Returns what the checkout's function returns, or a ModelInfo where it returns nothing,
    or just that.

    Raises:
        TypeError: the checkout's function takes no such argument. ValueError: there is no such depth or sort.
    """
    asked = understand(checkout, model, args, kwargs)
    check_choice(asked.depth, asked.sort)
    if asked.table and any(map(is_mute, loggers_of(checkout))):
        emit = print
    summary = Summary(network_of(model) if isinstance(model, nn.Module) else model, asked)
    value, texts = None, []
    if checkout is not None:
        value, failed, heard = _listen(checkout, model, asked, summary)
        summary.without_thop = heard.real_thop is None
        if summary.without_thop:
            _lend_thop(type(unwrap(model)))
        texts = [part.text for part in heard.texts]
        found = find_line(texts)
        if found is not None:
            i, j = found
            lines = texts[i].split("\n")
            lines[j] = summary.words(lines[j])
            heard.texts[i].new = "\n".join(lines)
        heard.emit()
        if found is None and (texts or failed):
            emit(summary.own_line())
    else:
        emit(summary.own_line())
    info = _info(summary, texts)
    info.depth, info.sort = asked.depth, asked.sort
    if asked.table and info.recording is not None and (texts or checkout is None):
        emit(info.table())
    return info if value is None or _is_just(info, value) else value


def _lend_thop(kind: type) -> None:
    """Let this package stand for a thop that is not installed where the model's own code times layers and counts them.

    Such a module of a checkout has tried to import thop, and has None by that name.
    """
    for base in kind.__mro__:
        names = vars(sys.modules.get(base.__module__, object()))
        if names.get("thop", kind) is None:
            names["thop"] = sys.modules[__package__.rpartition(".")[0]]


def _listen(checkout: Any, model: nn.Module, asked: Asked, summary: Summary) -> Tuple[Any, bool, Listener]:
    """Call the checkout's function; what it raises, training is spared."""
    with beside(checkout, model, summary.answer, asked.table) as heard:
        try:
            return checkout(model, *asked.args, **asked.kwargs), False, heard
        except Exception:
            return None, True, heard


def _info(summary: Summary, texts: List[str]) -> ModelInfo:
    found = [match for match in map(_LAYERS.search, texts) if match]
    layers = int((found[-1][1] or found[-1][2]).replace(",", "")) if found else 0
    return summary.count.info(summary.size, summary.error, layers, summary.model)


def _is_just(info: ModelInfo, value: Any) -> bool:
    """Say whether what the checkout's function has returned is what a ModelInfo unpacks to."""
    if not isinstance(value, (tuple, list)) or len(value) != 4:
        return False
    info.layers = value[0] if isinstance(value[0], int) else info.layers
    pairs = zip(value, info)
    return all(isinstance(a, (int, float)) and math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def memory_info(model: nn.Module, imgsz: Any = None, inputs: Any = None) -> ModelInfo:
    """Count a model and print nothing.

    inputs: what it is run on, a tensor or a tuple; images of ``imgsz`` by default, or of the model's usual size.
    """
    model = as_model(model, "memory_info")
    inputs = None if inputs is None else as_inputs(inputs, "memory_info")
    imgsz = usual_size(model) if imgsz is None else imgsz
    size, error = None, ""
    try:
        size = (None if inputs is None else image_size(inputs)) or fitting_size(model, imgsz)
    except ValueError as reason:
        error = in_few_words(reason)
    return Count(model, inputs).info(size, error)


def unannounced(checkout: Any, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Return what a checkout's ``model_info`` returns, without its count and without what it prints."""
    checkout = getattr(checkout, "of_checkout", checkout)
    if checkout is None:
        return None
    with modes_aside(), beside(checkout, model, lambda *asked: (0.0, 0.0)):  # it may copy the model, values or not
        try:
            return checkout(model, *args, **kwargs)
        except Exception:
            return None
