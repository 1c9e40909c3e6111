"""What a model is inside of its wrappers, and the refusal of one that can't be counted."""

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
