"""The loss that a checkout trains with, found and given made-up targets, so that its memory can be counted.

What a criterion weighs its parts by decides nothing about memory, so no file with hyperparameters is read; the one
threshold that does, of how unlike an anchor an object may be, is 4 in all releases.
"""

import importlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..deploy.steps import total_of
from ..run import alone, tensors_in
from ..run.inputs import Size

_HYPERPARAMETERS: Dict[str, Any] = {
    "box": 0.05, "giou": 0.05, "cls": 0.5, "cls_pw": 1.0, "obj": 1.0, "obj_pw": 1.0, "iou_t": 0.2, "anchor_t": 4.0,
    "fl_gamma": 0.0, "label_smoothing": 0.0, "loss_ota": 1, "dfl": 1.5, "theta": 180,
}  # fmt: skip
_CLASSES = {  # by the class of the last layer, the others by its absence
    "Segment": [("utils.segment.loss", "ComputeLoss")],
    "IAuxDetect": [("utils.loss", "ComputeLossAuxOTA")],
    "": [("utils.loss", "ComputeLossOTA"), ("utils.loss_tal", "ComputeLoss"), ("utils.loss", "ComputeLoss")],
    "DualDDetect": [("utils.loss_tal_dual", "ComputeLoss")],
    "DualDetect": [("utils.loss_tal_dual", "ComputeLoss")],
}
_FUNCTIONS = ("utils.loss", "utils.general", "utils.utils")
"""Where ``compute_loss`` stands, which was a function before v5.0."""
_MASK_STRIDE = 4


@dataclass(frozen=True)
class Criterion:
    """A loss as ``training`` takes it, and what makes targets for so many images.

    name: what it is called; of_images: each image has one label, and no objects.
    """

    name: str
    loss: Callable[..., Any]
    targets: Callable[[int], Any]
    of_images: bool = False


def criterion_for(model: nn.Module, size: Size, objects: int) -> Optional[Criterion]:
    """Find the loss that a model is trained with, for images of a size with so many objects each; None for none.

    Raises what the checkout's own code does.
    """
    head = _head_of(model)
    kind, classes = type(head).__name__, _classes_of(model, head)
    if hasattr(model, "init_criterion"):
        return _of_ultralytics(model, kind, classes, size, objects)
    if hasattr(head, "anchors") and hasattr(head, "nl"):
        return _of_checkout(model, head, classes, size, objects)
    if not classes:
        return None
    return Criterion("cross entropy", _cross_entropy, lambda batch: _labels(batch, classes), True)


def _head_of(model: nn.Module) -> Any:
    layers = getattr(model, "model", None)
    return layers[-1] if isinstance(layers, nn.Sequential) and len(layers) else model


def _classes_of(model: nn.Module, head: Any) -> int:
    """How many classes there are: what a detector's head says, or what the last layer of a classifier gives out."""
    said = getattr(head, "nc", None)
    if isinstance(said, int):
        return said
    last = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    linear = last[-1] if last else None
    return linear.out_features if isinstance(linear, nn.Linear) else getattr(linear, "out_channels", 0)


# ---- whose loss ----


def _of_checkout(model: Any, head: Any, classes: int, size: Size, objects: int) -> Optional[Criterion]:
    package = type(model).__module__.partition("models.")[0]
    package = package if package.endswith(".") or not package else ""
    model.hyp, model.gr, model.nc = dict(_HYPERPARAMETERS), 1.0, classes
    kind = type(head).__name__

    def boxes(batch: int) -> Tensor:
        return _boxes(batch, classes, objects)

    name, compute = _first(package, _CLASSES.get(kind, _CLASSES[""]))
    if compute is None:
        name, compute = _first(package, [(module, "compute_loss") for module in _FUNCTIONS])
        return None if compute is None else Criterion(name, lambda out, targets: compute(out, targets, model), boxes)
    with _on_the_cpu(model):
        loss = compute(model, **({"overlap": True} if "Segment" in kind else {}))
    if "Segment" in kind:
        return Criterion(
            name,
            lambda out, targets: loss(out, targets[0], masks=targets[1]),
            lambda batch: (boxes(batch), _masks(batch, size, objects)),
        )
    if name.endswith("OTA"):
        return Criterion(name, lambda out, given: loss(out, *given), lambda batch: (boxes(batch), _images(batch, size)))
    return Criterion(name, loss, boxes)


def _first(package: str, names: Sequence[Tuple[str, str]]) -> Tuple[str, Any]:
    """The first that the checkout has of some classes or functions, each named by its module and itself."""
    for module, name in names:
        with suppress(ImportError), alone():
            found = getattr(importlib.import_module(package + module), name, None)
            if found is not None:
                return name, found
    return "", None


@contextmanager
def _on_the_cpu(model: Any) -> Iterator[None]:
    """Let a criterion take the CPU for the model's device, though its weights may have no values."""
    model.parameters = lambda: iter([torch.zeros(1)])
    try:
        with alone():
            yield
    finally:
        del model.parameters


def _of_ultralytics(model: Any, kind: str, classes: int, size: Size, objects: int) -> Criterion:
    config: Any = importlib.import_module("ultralytics.cfg")
    model.args = config.get_cfg()
    points = getattr(model.model[-1], "kpt_shape", (17, 3)) if "Pose" in kind else ()

    def targets(batch: int) -> Dict[str, Tensor]:
        return _batch(_boxes(batch, classes, objects), batch, size, kind, points)

    if kind == "RTDETRDecoder":  # whose own method leads from outputs to the criterion
        model.nc = classes
        name = "RTDETRDetectionLoss, without queries for denoising,"
        return Criterion(name, lambda out, batch: model.loss(batch, preds=out), targets)
    with _on_the_cpu(model):
        criterion = model.init_criterion()
    if kind == "Classify":
        return Criterion(type(criterion).__name__, criterion, lambda batch: {"cls": _labels(batch, classes)}, True)
    return Criterion(type(criterion).__name__, criterion, targets)


def _cross_entropy(out: Any, labels: Tensor) -> Tensor:
    """The loss of a classifier, of all its heads; the sum of what is no classifier's."""
    found = [tensor for tensor in tensors_in((out,)) if tensor.dim() == 2 and tensor.is_floating_point()]
    if not found:
        return total_of(out)
    losses = [nn.functional.cross_entropy(tensor, labels) for tensor in found]
    return sum(losses[1:], losses[0])


# ---- what a validation makes of predictions ----

_BEST = 30_000  # candidates that are compared with each other


def suppression(out: Any) -> Optional[Tensor]:
    """Make as much as non-maximum suppression does of an image, where each box may be of each class, in one piece.

    Of each candidate indices and its row, some of them at once; of each two of the best a bit, as CUDA's kernel has it.
    """
    found = next((tensor for tensor in tensors_in((out,)) if tensor.dim() == 3), None)
    if found is None:
        return None
    wide, boxes = sorted(found.shape[1:])
    candidates = boxes * max(wide - 5, 1)
    size = candidates * (5 * 8 + 10 * found.element_size()) + boxes * (5 * 8 + 2 * wide * found.element_size())
    return found.new_empty(size + min(candidates, _BEST) ** 2 // 8, dtype=torch.uint8)


# ---- targets that nobody has labelled, the same each time ----


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _boxes(batch: int, classes: int, objects: int) -> Tensor:
    """Rows of image, class, and a box in parts of the image: a tenth of its side as a median."""
    found = torch.rand(batch * objects, 6, generator=_generator())
    found[:, 0] = torch.arange(batch).repeat_interleave(objects)
    found[:, 1] = (found[:, 1] * max(classes, 1)).floor()
    found[:, 2:4] = 0.1 + 0.8 * found[:, 2:4]
    found[:, 4:] = 0.02 + 0.4 * found[:, 4:] ** 2
    return found


def _masks(batch: int, size: Size, objects: int) -> Tensor:
    """Each pixel's object in its image, counted from 1."""
    sides = [side // _MASK_STRIDE for side in size]
    return torch.randint(0, objects + 1, (batch, *sides), generator=_generator()).float()


def _images(batch: int, size: Size) -> Tensor:
    """Images that are there for their shape, and take no memory."""
    return torch.zeros(1).expand(batch, 3, *size)


def _labels(batch: int, classes: int) -> Tensor:
    return torch.arange(batch) % max(classes, 1)


def _batch(boxes: Tensor, batch: int, size: Size, kind: str, points: Sequence[int]) -> Dict[str, Tensor]:
    """What ultralytics' loader gives out: rows of all images, and masks, keypoints or angles where they are wanted."""
    found = {
        "batch_idx": boxes[:, 0].contiguous(),
        "cls": boxes[:, 1:2].contiguous(),
        "bboxes": boxes[:, 2:].contiguous(),
    }
    if kind.startswith("OBB"):
        found["bboxes"] = torch.cat((found["bboxes"], torch.rand(len(boxes), 1, generator=_generator())), 1)
    elif kind.startswith(("Segment", "YOLOESegment")):
        found["masks"] = _masks(batch, size, len(boxes) // batch)
    elif kind.startswith("Pose"):
        found["keypoints"] = torch.rand(len(boxes), *points, generator=_generator())
    elif kind == "RTDETRDecoder":
        found["img"] = _images(batch, size)
    return found
