"""The loss that a checkout trains with, found and given made-up targets, so that its memory can be counted.

What a criterion weighs its parts by decides nothing about memory, so no file with hyperparameters is read; the one
threshold that does, of how unlike an anchor an object may be, is 4 in all releases.
"""

import importlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

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
    of_classes = partial(_labels, classes=classes)
    return Criterion("cross entropy", _cross_entropy, of_classes, True) if classes else None


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
    made = partial(_boxes, classes=classes, objects=objects)
    for module_name, name in _CLASSES.get(kind, _CLASSES[""]):
        kind_of_loss = _attribute(package + module_name, name)
        if kind_of_loss is None:
            continue
        with _on_the_cpu(model):
            compute = kind_of_loss(model, **({"overlap": True} if "Segment" in kind else {}))
        if "Segment" in kind:
            return Criterion(name, partial(_with_masks, compute), partial(_boxes_and_masks, made=made, size=size))
        if name.endswith("OTA"):
            return Criterion(name, partial(_with_images, compute), partial(_boxes_and_images, made=made, size=size))
        return Criterion(name, compute, made)
    for module_name in _FUNCTIONS:
        compute = _attribute(package + module_name, "compute_loss")
        if compute is not None:
            return Criterion("compute_loss", partial(_with_model, compute, model), made)
    return None


def _attribute(module_name: str, name: str) -> Any:
    """Return what a module of the checkout has by a name, or None."""
    with suppress(ImportError), alone():
        return getattr(importlib.import_module(module_name), name, None)
    return None


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
    batch = partial(_batch, classes=classes, objects=objects, size=size, kind=kind)
    if kind == "RTDETRDecoder":  # whose own method leads from outputs to the criterion
        model.nc = classes
        return Criterion("RTDETRDetectionLoss, without queries for denoising,", partial(_by_method, model.loss), batch)
    with _on_the_cpu(model):
        criterion = model.init_criterion()
    if kind == "Classify":
        return Criterion(type(criterion).__name__, criterion, partial(_batch_of_labels, classes=classes), True)
    points = getattr(model.model[-1], "kpt_shape", (17, 3)) if "Pose" in kind else None
    return Criterion(type(criterion).__name__, criterion, partial(batch, points=points))


def _with_model(compute: Any, model: Any, out: Any, targets: Any) -> Any:
    return compute(out, targets, model)


def _by_method(loss: Any, out: Any, batch: Any) -> Any:
    return loss(batch, preds=out)


def _with_masks(compute: Any, out: Any, targets: Any) -> Any:
    boxes, masks = targets
    return compute(out, boxes, masks=masks)


def _with_images(compute: Any, out: Any, targets: Any) -> Any:
    boxes, images = targets
    return compute(out, boxes, images)


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


def _boxes_and_masks(batch: int, made: Any, size: Size) -> Tuple[Tensor, Tensor]:
    boxes: Tensor = made(batch)
    return boxes, _masks(batch, size, len(boxes) // batch)


def _boxes_and_images(batch: int, made: Any, size: Size) -> Tuple[Tensor, Tensor]:
    """The images are there for their shape, and take no memory."""
    return made(batch), torch.zeros(1).expand(batch, 3, *size)


def _labels(batch: int, classes: int) -> Tensor:
    return torch.arange(batch) % max(classes, 1)


def _batch_of_labels(batch: int, classes: int) -> Dict[str, Tensor]:
    return {"cls": _labels(batch, classes)}


def _batch(batch: int, classes: int, objects: int, size: Size, kind: str, points: Any = ()) -> Dict[str, Tensor]:
    """What ultralytics' loader gives out: rows of all images, and masks, keypoints or angles where they are wanted."""
    boxes = _boxes(batch, classes, objects)
    found = {
        "batch_idx": boxes[:, 0].contiguous(),
        "cls": boxes[:, 1:2].contiguous(),
        "bboxes": boxes[:, 2:].contiguous(),
    }
    if kind.startswith("OBB"):
        found["bboxes"] = torch.cat((found["bboxes"], torch.rand(len(boxes), 1, generator=_generator())), 1)
    elif kind.startswith(("Segment", "YOLOESegment")):
        found["masks"] = _masks(batch, size, objects)
    elif kind.startswith("Pose"):
        found["keypoints"] = torch.rand(len(boxes), *points, generator=_generator())
    elif kind == "RTDETRDecoder":
        found["img"] = torch.zeros(1).expand(batch, 3, *size)
    return found
