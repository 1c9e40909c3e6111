"""What a model is inside of its wrappers, and the refusal of one that can't be counted."""

import inspect

from torch import nn

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
