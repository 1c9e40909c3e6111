"""What a model is run on: images of a size, as many as its forward takes, or what a checkout hands in, resized."""

import inspect
from typing import Any, Optional, Tuple

from torch import Tensor, nn

from .nested import map_tensors, tensors_in

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class NotCountable(RuntimeError):
    """The model can't be counted as it is, neither without values nor with them; the message says what to do."""


def unwrap(model: nn.Module) -> nn.Module:
    """Take a model out of DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, _PARALLEL):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return model


def network_of(model: nn.Module) -> nn.Module:
    """Return what somebody means who hands in a model: out of its wrappers, and out of ultralytics' ``YOLO``.

    That is no network but a handle of one, whose ``train`` starts a training; it is known by that, and by having no
    layers beside its ``model``. Others hold a network under this name too, and are counted as they are.
    """
    model = unwrap(model)
    held = model._modules.get("model")
    has_more = len(model._modules) != 1 or model._parameters or model._buffers
    return model if held is None or has_more or trains_as_a_module(type(model)) else unwrap(held)


def trains_as_a_module(kind: type) -> bool:
    """Say whether ``train`` of a class takes what PyTorch's takes, a mode, so that it can be called."""
    method = getattr(kind, "train", None)
    if method is nn.Module.train:
        return True
    try:
        _, *parameters = inspect.signature(method).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    is_flag = len(parameters) == 1 and parameters[0].default is True
    return is_flag or any(parameter.name == "mode" for parameter in parameters)


Size = Tuple[int, int]


def as_model(model: Any, function: str) -> nn.Module:
    """Return the module that a caller of ``function`` means, out of its wrappers; raises TypeError for what is none."""
    if isinstance(model, nn.Module):
        return network_of(model)
    hint = ": the model comes first, then its inputs" if isinstance(model, (Tensor, tuple, list)) else ""
    raise TypeError(f"{function}: the model must be a torch.nn.Module, not {type(model).__name__}{hint}")


def as_inputs(inputs: Any, function: str) -> Tuple[Any, ...]:
    """Return the positional arguments that a caller of ``function`` means: a tensor is the only one.

    Raises TypeError for what is no tensor, tuple or list.
    """
    if isinstance(inputs, Tensor):
        return (inputs,)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs)
    hint = "; arguments by name go into kwargs" if isinstance(inputs, dict) else ""
    raise TypeError(
        f"{function}: inputs must be a tensor or a tuple of arguments, as in (x,), not {type(inputs).__name__}{hint}"
    )


def images_for(model: nn.Module, size: Size) -> Tuple[Tensor, ...]:
    """Make the images (1, channels, height, width) that a model takes, in its dtype, on its device.

    There are as many as its forward has arguments without a default: a network of two streams takes two. One that
    knows what it takes says so itself (``inputs_at``). Raises ValueError for a model that has no parameters, or no
    convolution to tell the channels.
    """
    if hasattr(type(model), "inputs_at"):
        return model.inputs_at(size)  # type: ignore[operator]
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        raise ValueError("the model has no parameters")
    shape = (1, input_channels(model), *size)
    return tuple(parameter.new_zeros(shape).detach() for _ in range(_streams(model)))


def _streams(model: nn.Module) -> int:
    try:
        arguments = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(a.kind in by_position and a.default is inspect.Parameter.empty for a in arguments))


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


def usual_size(model: nn.Module) -> Size:
    """Return the image size that a model is usually run at: 640 x 640, as YOLOv5's, unless it says or is another.

    timm's networks say it (``pretrained_cfg``); torchvision's classifiers take 224 x 224.
    """
    said = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    sides = said.get("input_size") if isinstance(said, dict) else getattr(said, "input_size", None)
    if isinstance(sides, (tuple, list)) and len(sides) == 3:
        return int(sides[1]), int(sides[2])
    names = [kind.__module__ for kind in type(model).__mro__]
    of_torchvision = [name for name in names if name.startswith("torchvision.models.")]
    if of_torchvision and not any(name.split(".")[2] in _NO_CLASSIFIERS for name in of_torchvision):
        return 224, 224
    return 640, 640


_NO_CLASSIFIERS = ("detection", "segmentation", "video", "optical_flow")


def fitting_size(model: nn.Module, imgsz: Any) -> Size:
    """Turn an int or (h, w) into the size that YOLOv5 would run: the next multiple of the model's largest stride."""
    height, width = as_size(imgsz)
    stride = getattr(model, "stride", None)  # a convolution has one too, of another kind
    step = max(int(stride.max()), 1) if isinstance(stride, Tensor) and stride.numel() else 1
    return -(-height // step) * step, -(-width // step) * step


def as_size(imgsz: Any) -> Size:
    """Turn an int or (h, w) into (h, w); raises ValueError for anything else."""
    given = imgsz.tolist() if hasattr(imgsz, "tolist") else imgsz  # of numpy or torch
    sides = tuple(given) if isinstance(given, (list, tuple)) else (given, given)
    sides = tuple(side.item() if hasattr(side, "item") else side for side in sides)
    if len(sides) != 2 or not all(isinstance(side, (int, float)) and side >= 1 and side == int(side) for side in sides):
        raise ValueError(f"image size must be a positive whole number or (height, width), not {imgsz}")
    return int(sides[0]), int(sides[1])


def like_given(size: Size, given: Any) -> Any:
    """Put a size into the form that somebody has given one in: a number, a list, a tuple."""
    if isinstance(given, (list, tuple)):
        return type(given)(size)
    return size[0] if size[0] == size[1] else list(size)


def image_size(inputs: Any) -> Optional[Size]:
    """Return (height, width) of the first image among a model's inputs, or None."""
    image = next((tensor for tensor in tensors_in((inputs,)) if tensor.dim() == 4), None)
    return None if image is None else (int(image.shape[-2]), int(image.shape[-1]))


def resized(inputs: Any, size: Size, model: nn.Module) -> Tuple[Any, ...]:
    """Return blank inputs like these with the first image at a size, and every other one in the same proportion.

    They come in the model's dtype, on its device; what is no image stays as it is.
    """
    shown = image_size(inputs)
    parameter: Any = next((p for p in model.parameters() if p.is_floating_point()), None)

    def fit(value: Tensor) -> Tensor:
        like: Any = {}
        if parameter is not None and value.is_floating_point():
            like = {"dtype": parameter.dtype, "device": parameter.device}
        if value.dim() != 4 or shown is None:
            return value.detach().to(**like) if like else value
        sides = [side * new // old for side, new, old in zip(value.shape[-2:], size, shown)]
        return value.detach().new_zeros((*value.shape[:-2], *sides), **like)

    fitted: Tuple[Any, ...] = map_tensors(tuple(inputs), fit)
    return fitted
