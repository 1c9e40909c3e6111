"""The summary line: what the checkout's own ``model_info`` prints, with our count in it.

Every YOLOv5 and every fork words its line in a way of its own. So the checkout's function is run as it stands, in a
copy of its namespace in which ``thop`` hands out our count, and what it prints is held back until the memory accesses
are added. Nothing of the checkout's module is changed.
"""

import builtins
import copy
import inspect
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, Callable, Dict, List, Optional, Tuple

from torch import Tensor, nn

from .profile import Profile, profile
from .report import ModelInfo, accesses
from .run import in_few_words, unwrap
from .traffic import Traffic, traffic
from .units import kinds_not_counted

Size = Tuple[int, int]
_SUMMARY = re.compile(r"([\d,]+) layers, ")
_FLOPS = re.compile(r"GFLOPs", re.IGNORECASE)


@dataclass
class Count:
    """One count of a model at the size that ``imgsz`` asks for, made when first needed.

    size: (height, width) that is counted, or None where ``imgsz`` is no size; error: why there is no count.
    """

    model: nn.Module
    imgsz: Any
    size: Optional[Size] = None
    profile: Optional[Profile] = None
    error: str = ""
    asked: bool = False

    def __post_init__(self) -> None:
        try:
            self.size = fitting_size(self.model, self.imgsz)
        except ValueError as error:
            self.error = in_few_words(error)

    def ops(self) -> float:
        """Multiply-accumulates of the whole network at ``size``; raises RuntimeError where it can't be counted."""
        if not self.asked and self.size is not None:
            self.asked = True
            try:
                self.profile = profile(self.model, (image_for(self.model, self.size),), verbose=False)
            except Exception as error:
                self.error = in_few_words(error)
        if self.profile is None:
            raise RuntimeError(self.error)
        return self.profile.total_ops

    def traffic(self) -> Traffic:
        """The bytes of the same network, at the same size."""
        assert self.size is not None
        return traffic(self.model, (image_for(self.model, self.size),))


@dataclass
class Printed:
    """What a checkout's ``model_info`` printed: texts, each with the call that prints one."""

    messages: List[Tuple[Callable[..., Any], str]] = field(default_factory=list)

    def recorder(self, emit: Callable[..., Any]) -> Callable[..., None]:
        """Return a stand-in for a print or logger call, which holds its text back."""

        def record(*args: Any, **kwargs: Any) -> None:
            if len(args) == 1 and not kwargs:
                self.messages.append((emit, str(args[0])))
            else:
                self.messages.append((lambda _: emit(*args, **kwargs), ""))

        return record

    def summary(self) -> Optional[int]:
        """Return the index of the summary line among the messages, or None."""
        found = [i for i, (_, text) in enumerate(self.messages) if _SUMMARY.search(text)]
        return found[-1] if found else None

    def emit(self, addition: str) -> bool:
        """Print all that was held back, the summary line with ``addition``; say whether there was such a line."""
        index = self.summary()
        for i, (emit, text) in enumerate(self.messages):
            emit(text + addition if i == index else text)
        return index is not None

    def layers(self) -> int:
        """Return the number of layers that the summary line gives."""
        index = self.summary()
        found = _SUMMARY.search(self.messages[index][1]) if index is not None else None
        return int(found.group(1).replace(",", "")) if found else 0

    def shows_flops(self) -> bool:
        """Say whether the summary line names GFLOPs."""
        index = self.summary()
        return index is not None and bool(_FLOPS.search(self.messages[index][1]))


def image_for(model: nn.Module, size: Size) -> Any:
    """Make an image tensor (1, channels, height, width) in the model's dtype, on its device."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        raise ValueError("the model has no parameters")
    return parameter.new_zeros((1, input_channels(model), *size)).detach()


def input_channels(model: nn.Module) -> int:
    """Return the channels of the model's image: ``model.yaml['ch']``, or what its first convolution reads.

    Raises ValueError for a model that has neither.
    """
    yaml = getattr(model, "yaml", None)
    if isinstance(yaml, dict) and isinstance(yaml.get("ch"), int):
        return yaml["ch"]
    focus = 1
    for module in model.modules():
        if type(module).__name__ == "Focus":
            focus = 4  # it stacks every second pixel of every second row as channels, ahead of its convolution
        if isinstance(module, nn.Conv2d):
            return module.in_channels // focus
    raise ValueError("the model has no 2-d convolution to take the number of image channels from")


def fitting_size(model: nn.Module, imgsz: Any) -> Size:
    """Turn an int or (h, w) into the size that YOLOv5 would run: the next multiple of the model's largest stride."""
    height, width = as_size(imgsz)
    stride = getattr(model, "stride", None)  # a convolution has one too, of another kind
    step = max(int(stride.max()), 1) if isinstance(stride, Tensor) and stride.numel() else 1
    return -(-height // step) * step, -(-width // step) * step


def as_size(imgsz: Any) -> Size:
    """Turn an int or (h, w) into (h, w); raises ValueError for anything else."""
    sides = tuple(imgsz) if isinstance(imgsz, (list, tuple)) else (imgsz, imgsz)
    if len(sides) != 2 or not all(isinstance(side, (int, float)) and side >= 1 and side == int(side) for side in sides):
        raise ValueError(f"image size must be a positive whole number or (height, width), not {imgsz}")
    return int(sides[0]), int(sides[1])


def print_by_checkout(model_info: Any, model: nn.Module, verbose: bool, count: Count) -> Optional[Printed]:
    """Run the checkout's own ``model_info`` with our count; None where it can't be run or prints no summary."""
    function = inspect.unwrap(model_info) if callable(model_info) else None
    if not isinstance(function, FunctionType):
        return None
    names = inspect.signature(function).parameters
    printed = Printed()
    sized = "imgsz" in names or "img_size" in names
    namespace = _namespace(function, model, count, printed, sized)
    stand_in = FunctionType(
        function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__
    )
    stand_in.__kwdefaults__ = function.__kwdefaults__
    arguments: Dict[str, Any] = {"verbose": verbose}
    if "detailed" in names:
        arguments = {"detailed": verbose, "verbose": True}
    if sized and count.size is not None:
        arguments["imgsz" if "imgsz" in names else "img_size"] = list(count.size)
    try:
        stand_in(model, **arguments)
    except Exception:
        return None
    return printed if printed.summary() is not None else None


def _namespace(function: FunctionType, model: nn.Module, count: Count, printed: Printed, sized: bool) -> Dict[str, Any]:
    """Copy the function's globals, with thop, its copy of the model, and all that prints replaced."""
    thop = SimpleNamespace(profile=partial(_thop_profile, count, sized))

    def import_module(name: str, *args: Any, **kwargs: Any) -> Any:
        return thop if name == "thop" else builtins.__import__(name, *args, **kwargs)

    def deepcopy(value: Any, *args: Any) -> Any:
        return _StandIn() if value is model else copy.deepcopy(value, *args)

    namespace = dict(function.__globals__)
    namespace.update(thop=thop, deepcopy=deepcopy)
    if "get_flops" in namespace:
        namespace["get_flops"] = lambda *args, **kwargs: _gflops_or_zero(count)
    for name in ("LOGGER", "logger"):
        if name in namespace:
            namespace[name] = _Recording(namespace[name], printed)
    overrides = {"__import__": import_module, "print": printed.recorder(print)}
    namespace["__builtins__"] = {**vars(builtins), **overrides}
    return namespace


def _thop_profile(count: Count, sized: bool, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tuple[float, float]:
    """Answer the checkout's call of ``thop.profile``.

    A checkout that hands in a small square multiplies the answer by the image's share of it, so what it gets is our
    count times that share; one that hands in a whole image gets the count at that image's size.
    """
    height, width = inputs[0].shape[-2:]
    if not sized and height * width > 128 * 128:
        count.size = height, width
        return count.ops(), 0.0
    ops = count.ops()
    assert count.size is not None
    return ops * (height * width) / (count.size[0] * count.size[1]), 0.0


def _gflops_or_zero(count: Count) -> float:
    """Answer a checkout that takes GFLOPs from a function of its own, and zero for unknown."""
    try:
        return count.ops() * 2 / 1e9
    except RuntimeError:
        return 0.0


class _StandIn:
    """Takes the place of a copy of the model that only thop would have looked at."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self


class _Recording:
    """A logger whose messages are held back; everything else is the logger's own."""

    def __init__(self, logger: Any, printed: Printed) -> None:
        self._logger, self._printed = logger, printed

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._logger, name)
        return self._printed.recorder(value) if name in ("info", "warning", "debug", "error") else value


def show_summary(model: nn.Module, imgsz: Any, verbose: bool, checkout: Any, emit: Callable[[str], None]) -> ModelInfo:
    """Print a model's summary line, in the checkout's own words if it has any, and return its numbers.

    ``checkout`` is the checkout's own ``model_info``, or None; ``emit`` prints a line where there is none.
    """
    model = unwrap(model)
    count = Count(model, imgsz)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    parameters = sum(size for size, _ in sizes)
    gradients = sum(size for size, trained in sizes if trained)
    printed = print_by_checkout(checkout, model, verbose, count)
    if printed is None:
        line = f"{_name(model)} summary: {len(list(model.modules()))} layers, {parameters} parameters, "
        printed = Printed([(emit, f"{line}{gradients} gradients")])
    printed.emit(_addition(count, printed.shows_flops()))
    return ModelInfo(
        printed.layers(), parameters, gradients, count.size, count.profile, count.error, count_traffic=count.traffic
    )


def _name(model: nn.Module) -> str:
    return Path(str(getattr(model, "yaml_file", "Model"))).stem.replace("yolov5", "YOLOv5")


def _addition(count: Count, flops_shown: bool) -> str:
    """What follows the checkout's own words: GFLOPs if they lack them, the accesses, and the size if it changed."""
    try:
        ops = count.ops()
    except RuntimeError:
        return f", {'' if flops_shown else 'GFLOPs and '}memory accesses not counted ({count.error})"
    assert count.profile is not None and count.size is not None
    parts = [accesses(count.profile.total_kernel_macs, count.profile.total_output_macs)]
    if not flops_shown:
        parts.insert(0, f"{ops * 2 / 1e9:.1f} GFLOPs")
    wanted = as_size(count.imgsz)
    if count.size != wanted:
        rounded_up = count.size == fitting_size(count.model, wanted)
        reason = " ({}x{} is no multiple of the stride)".format(*wanted) if rounded_up else ""
        parts.append("at {}x{}".format(*count.size) + reason)
    not_counted = kinds_not_counted(count.profile.missing)
    return "".join(f", {part}" for part in parts) + f" {not_counted}" * bool(not_counted)
