"""What the command calls MODEL: a cfg or weights file of YOLOv5, a torchvision model, or a function that makes one."""

import contextlib
import difflib
import glob
import importlib
import inspect
import random
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple, TypeVar

import torch
from torch import Tensor, nn

from ..count.record import Recording, record
from ..deploy.runtimes import DeviceError
from ..measure.onnx_graph import OnnxNetwork
from ..run import NotCountable, alone, blank, in_few_words, modes_aside
from ..run.inputs import Size, as_model, as_size, fitting_size, image_size, images_for, usual_size
from ..show.report import ModelInfo, sizes_of
from ..units import dtype_name, listed
from .checkout import DARKNET, NO_CFG, ROOT, ModelError, build_cfg, fuse, load_weights, read_cfg

CFG = (".yaml", ".yml", DARKNET)
WEIGHTS = (".pt", ".pth")
ONNX = ".onnx"
PACKAGES = ("torchvision", "timm", "ultralytics")
_CALLABLE = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")
T = TypeVar("T")


class Input(NamedTuple):
    """One input: its shape, its type, the model's without a name, and the whole numbers that its values lie between."""

    shape: Sequence[int]
    dtype: str = ""
    low: int = 0
    high: int = 1


class Setup(NamedTuple):
    """How every model is run: image size (None: the model's usual one), images at once, float16, fused.

    inputs: all that its forward takes, in place of images of that size.
    """

    imgsz: Optional[Size] = None
    batch: int = 1
    half: bool = False
    fuse: bool = False
    inputs: Sequence[Input] = ()


def size_in(words: str) -> Size:
    """Read "640" or "480 640"; raises ValueError for what is no size."""
    sides = [int(side) for side in words.split()]
    return as_size(sides * (2 if len(sides) == 1 else 1))


@dataclass(frozen=True)
class Source:
    """A MODEL of the command line; group: what has found several.

    kind: cfg, weights, onnx, a package's name or callable.
    """

    text: str
    kind: str
    group: str = ""

    @property
    def name(self) -> str:
        """What it is called for short; two may have the same."""
        if self.kind == "cfg":
            return Path(self.text).stem
        if self.kind in PACKAGES:
            name = self.text.partition(":")[2]
            return name[: -len(".yaml")] if name.endswith(".yaml") else name
        return Path(self.text).name if self.kind in ("weights", "onnx") else self.text


@dataclass(frozen=True)
class Built:
    """A model ready to be counted; rounded_from: the size that was asked for, where the stride does not divide it."""

    model: nn.Module
    inputs: Tuple[Tensor, ...]
    rounded_from: Optional[Size]

    @property
    def parameters(self) -> int:
        """Elements of all parameters, each counted once."""
        return sizes_of(self.model).parameters

    @property
    def input(self) -> str:
        """The shapes of what it is run on, as in 1x3x640x640, or 2 of 1x3x640x640."""
        shapes = ["x".join(map(str, tensor.shape)) for tensor in self.inputs]
        if len(shapes) > 1 and len(set(shapes)) == 1:
            return f"{len(shapes)} of {shapes[0]}"
        return " and ".join(shapes)

    @property
    def dtype(self) -> str:
        """The type of what it is run on, as in float32."""
        return dtype_name(self.inputs[0].dtype)

    def remark(self) -> str:
        """A word about a size that was rounded up, or nothing."""
        if self.rounded_from is None:
            return ""
        return "{}x{} is no multiple of the stride".format(*self.rounded_from)

    def record(self, amp: bool = False) -> Recording:
        """Record a run of it, of which all else is read; ``amp``: under autocast."""
        return record(self.model, self.inputs, amp=amp)

    def info(self, recorded: Recording) -> ModelInfo:
        """What a recording of it says, for the table of modules."""
        return ModelInfo(*sizes_of(self.model), image_size(self.inputs), recorded)


# ---- what there is ----


def find(texts: Sequence[str]) -> List[Source]:
    """Turn the MODELs of a command line into sources, patterns into all files that match.

    Raises ModelError, which names it, for what is no MODEL or a file that is not there. Nothing is opened or imported.
    """
    return [source for text in texts for source in _find(text)]


def find_one(text: str, why: str) -> Source:
    """Turn a MODEL into a source; raises ModelError, which says why it takes one, for a pattern that finds several."""
    found = find([text])
    if len(found) > 1:
        raise ModelError(f"{text} stands for {len(found)} files, {why}")
    return found[0]


def _find(text: str) -> List[Source]:
    package = text.partition(":")[0]
    if package in PACKAGES:
        return [Source(text, package)]
    suffix, path = Path(text).suffix.lower(), Path(text)
    if path.is_dir():
        inside = f", such as {next(iter(sorted(path.glob('*.yaml'))))}" if any(path.glob("*.yaml")) else ""
        raise ModelError(f"{text}: a folder; name a file in it{inside}")
    if suffix in (*CFG, *WEIGHTS, ONNX):
        kind = "cfg" if suffix in CFG else "onnx" if suffix == ONNX else "weights"
        if path.is_file():
            return [Source(text, kind)]
        if not glob.has_magic(text):
            return [Source(_found_elsewhere(path), kind)]
        found = sorted(name for name in glob.glob(text, recursive=True) if Path(name).is_file())
        if not found:
            raise ModelError(f"{text}: no file matches")
        found = [name for name in found if kind != "cfg" or _may_be_cfg(Path(name))]
        if not found:
            raise ModelError(f"{text}: no file that matches is a YOLOv5 cfg, with a backbone and a head")
        return [Source(name, kind, text) for name in found]
    if _CALLABLE.fullmatch(text):
        return [Source(text, "callable")]
    raise ModelError(
        f"{text}: not a model: a cfg (*.yaml), weights (*.pt), an export (*.onnx), torchvision:NAME, timm:NAME, "
        "ultralytics:NAME.yaml or package.module:function"
    )


def _found_elsewhere(path: Path) -> str:
    """Find a file of this name where train.py would, in the checkout's models; raises ModelError, with suggestions."""
    folders = [folder for folder in (Path("models"), ROOT / "models") if folder.is_dir()]
    known = {file.resolve(): str(file) for folder in folders[::-1] for file in folder.rglob(f"*{path.suffix}")}
    same = [text for file, text in known.items() if file.name == path.name]
    if len(same) == 1 and len(path.parts) == 1:
        return same[0]
    beside = [str(file) for file in path.parent.glob(f"*{path.suffix}")]
    by_name = {Path(text).name: text for text in [*known.values(), *beside]}
    close = same or [by_name[name] for name in difflib.get_close_matches(path.name, by_name, n=2, cutoff=0.7)]
    raise ModelError(f"{path}: no such file" + (f"; did you mean {listed(close, ' or ')}?" if close else ""))


def _may_be_cfg(path: Path) -> bool:
    """Say whether a file that a pattern matches is meant: anchors, data sets and hyperparameters are not."""
    if path.suffix.lower() == DARKNET:
        return True
    try:
        read_cfg(path)
    except ModelError as error:
        return not str(error).startswith(NO_CFG)
    return True


def names(sources: Sequence[Source]) -> List[str]:
    """Name each source so that no two are called the same: with as much of the path as it takes, or with a number."""
    short = [source.name for source in sources]
    longer = [name if short.count(name) == 1 else _told_apart(source, sources) for name, source in zip(short, sources)]
    return numbered(longer)


def numbered(called: Sequence[str]) -> List[str]:
    """Put a number behind each name that several have."""
    return [
        name if called.count(name) == 1 else f"{name} ({called[: i + 1].count(name)})" for i, name in enumerate(called)
    ]


def _told_apart(source: Source, sources: Sequence[Source]) -> str:
    """The end of a path that no other source of the same name has, or all of it."""
    others = {other.text for other in sources if other.name == source.name and other.text != source.text}
    if not others:
        return source.name
    parts = Path(source.text).parts
    for count in range(1, len(parts)):
        if not any(Path(other).parts[-count:] == parts[-count:] for other in others):
            return "/".join(parts[-count:])
    return source.text


# ---- building ----


def counted(source: Source, setup: Setup, count: Callable[[Built], T]) -> T:
    """Build a model and return what ``count`` makes of it.

    Where the constructor allows it, the model is built without values, which nobody needs who counts; otherwise, or
    where counting stumbles over that, as usual. Raises ModelError where there is no model, and what ``count`` raises.
    """
    try:
        if source.kind == "cfg" or source.kind in PACKAGES:
            try:
                built = build(source, setup, without_values=True)
                with alone():
                    return count(built)
            except Exception as error:
                if not _may_need_values(error):
                    raise
        _seed()
        built = build(source, setup)
        with alone():
            return count(built)
    except SystemExit as error:
        raise ModelError(f"its forward ends the program (SystemExit: {error})") from error


def _may_need_values(error: Exception) -> bool:
    """Say whether a model that was built without values may have failed for that; a build with values shows it.

    A constructor stumbles in PyTorch, which tells so by these two; whoever counts is told by name.
    """
    reason = error.__cause__ or error
    return isinstance(reason, (RuntimeError, TypeError) if isinstance(error, ModelError) else NotCountable)


def _seed() -> None:
    """Let random weights be the same each time: where values decide, so is the count then."""
    torch.manual_seed(0)
    random.seed(0)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(0)


def build(source: Source, setup: Setup, without_values: bool = False) -> Built:
    """Build a model, with or without values, and an image for it; raises ModelError."""
    try:
        with blank() if without_values else torch.no_grad():  # YOLOv5 before v4.0 sets its heads' biases in place
            model = as_model(_BUILDERS[source.kind](source.text), "the function")
            model = fuse(model) if setup.fuse else model
            with alone():
                model = model.half() if setup.half else model
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        if source.kind == "weights" and _is_state(source.text):
            what = "holds a state_dict, weights without their network: name a function that builds it"
            raise ModelError(what) from error
        verb = "opened" if source.kind == "weights" else "built"
        raise ModelError(f"can't be {verb}: {in_few_words(error)}") from error
    if setup.inputs:
        return Built(model, _of_shapes(model, setup.inputs), None)
    try:
        return with_images(model, setup)
    except ValueError as error:
        raise ModelError(str(error)) from error


def with_images(model: nn.Module, setup: Setup) -> Built:
    """Put a model beside images of the size and number that are asked for; raises ValueError where none can be made."""
    asked = setup.imgsz or usual_size(model)
    size = fitting_size(model, asked)
    images = tuple(image.new_zeros((setup.batch, *image.shape[1:])) for image in images_for(model, size))
    return Built(model, images, None if size == asked else asked)


def _of_shapes(model: nn.Module, inputs: Sequence[Input]) -> Tuple[Tensor, ...]:
    """Make the inputs; values are drawn with a seed of their own."""
    parameter: Any = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    found = []
    for one in inputs:
        dtype = getattr(torch, one.dtype) if one.dtype else parameter.dtype
        values = torch.randint(one.low, one.high, tuple(one.shape), generator=generator)
        found.append(values.to(device=parameter.device, dtype=dtype))
    return tuple(found)


def _imported(package: str) -> Any:
    """Import a package that has models; raises ModelError where it is not there."""
    name = {"torchvision": "torchvision.models", "timm": "timm", "ultralytics": "ultralytics.nn.tasks"}[package]
    try:
        with alone(), modes_aside():
            return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f"needs the package {package} ({error})") from error


def _is_state(path: str) -> bool:
    """Say whether a file holds tensors by name, and no network."""
    with contextlib.suppress(Exception):
        held = torch.load(path, map_location="cpu", weights_only=True)
        held = held.get("state_dict", held.get("model", held))
        return isinstance(held, dict) and all(isinstance(value, Tensor) for value in held.values())
    return False


def _known(name: str, known: Sequence[str], package: str) -> str:
    """Return a name that a package has; raises ModelError, which suggests those that come close."""
    if name not in known:
        close = difflib.get_close_matches(name, sorted({*known}), n=3)
        hint = f"; did you mean {listed(close, ' or ')}?" if close else ""
        raise ModelError(f"{package} has no such model{hint}")
    return name


def _timm(text: str) -> nn.Module:
    timm = _imported("timm")
    name = text.partition(":")[2]
    _known(name.partition(".")[0], timm.list_models(), "timm")
    model: nn.Module = timm.create_model(name, pretrained=False)
    return model


def _ultralytics(text: str) -> nn.Module:
    """Build a network of ultralytics by its cfg, whose name may have a size's letter; weights would be fetched."""
    tasks = _imported("ultralytics")
    name = text.partition(":")[2]
    if not name.endswith((".yaml", ".yml")):
        raise ModelError("name a cfg, such as ultralytics:yolo11n.yaml: weights are not fetched here")
    folder = Path(tasks.__file__).parents[1] / "cfg" / "models"
    names = [file.name for file in folder.rglob("*.yaml")]
    scaled = [re.sub(r"^(yolo(?:e-)?v?\d+)", rf"\g<1>{letter}", each) for each in names for letter in "nsmlx"]
    if not Path(name).is_file():
        _known(name, [*names, *scaled], "ultralytics")
    with alone():
        model: nn.Module = getattr(tasks, task_of(name))(name, verbose=False)
    return model


def task_of(name: str) -> str:
    """Name the class of ultralytics that builds a cfg, by the cfg's name."""
    kind = next((kind for part, kind in _TASKS.items() if part in name), "DetectionModel")
    return "YOLOESegModel" if kind == "YOLOEModel" and "-seg" in name else kind


_TASKS = {"rtdetr": "RTDETRDetectionModel", "world": "WorldModel", "yoloe": "YOLOEModel", "-seg": "SegmentationModel",
          "-pose": "PoseModel", "-obb": "OBBModel", "-cls": "ClassificationModel", "-sem": "SemanticSegmentationModel",
          "-depth": "DepthModel"}  # fmt: skip


def _torchvision(text: str) -> nn.Module:
    try:
        from torchvision.models import get_model_builder, list_models
    except ImportError as error:
        raise ModelError(f"needs torchvision 0.14 or newer ({error})") from error
    name = _known(text.partition(":")[2].lower(), list_models(), "torchvision")
    builder = get_model_builder(name)
    options = inspect.signature(builder).parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of other initial weights, which nobody needs who counts
        return builder(**{option: None for option in ("weights", "weights_backbone") if option in options})


def _exported(text: str) -> nn.Module:
    try:
        return OnnxNetwork(text)
    except DeviceError as error:
        raise ModelError(str(error).replace(text, "", 1).lstrip(": ")) from error


def _called(text: str) -> nn.Module:
    """Import a module, with the current folder searched first, and call what it is told to."""
    module_name, _, path = text.partition(":")
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the numbers
        try:
            with modes_aside():
                found: Any = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            raise ModelError(f"module {module_name} can't be imported: {in_few_words(error)}") from error
        for name in path.split("."):
            if not hasattr(found, name):
                raise ModelError(f"{module_name} has no {path}")
            found = getattr(found, name)
        if not isinstance(found, nn.Module):
            if not callable(found):
                raise ModelError(f"{path}, of type {type(found).__name__}, can't be called")
            found = found()
    if not isinstance(found, nn.Module):
        raise ModelError(f"returned {type(found).__name__}, not a torch.nn.Module")
    return found


_BUILDERS = {
    "cfg": lambda text: build_cfg(Path(text)),
    "weights": lambda text: load_weights(Path(text)),
    "onnx": _exported,
    "torchvision": _torchvision,
    "timm": _timm,
    "ultralytics": _ultralytics,
    "callable": _called,
}
