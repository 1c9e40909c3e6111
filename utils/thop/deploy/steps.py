"""The steps of a training, as train.py takes them, driven without values: forward, loss, backward, optimizer.

Two steps are taken, and the second one counts: the optimizer has its state by then, and what a loop holds of the step
before, its outputs and its loss, lives until it is replaced. Where gradients of several batches are summed up, those of
earlier ones are alive in it. After the last batch of an epoch a validation may follow: twice as many images, in half.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from ..count.phases import BACKWARD, LOSS, OPTIMIZER, StepRecorder, bytes_of
from ..run import Driven, ModelCopy, in_few_words, map_tensors, tensors_in
from .fits import checkpoint_modules
from .runtimes import DeviceError

_MOMENTUM = 0.937  # as YOLOv5 has it; only whether there is one matters here
_DECAY = 5e-4
OPTIMIZERS: Dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": partial(torch.optim.SGD, lr=0.01, momentum=_MOMENTUM, nesterov=True),
    "Adam": partial(torch.optim.Adam, lr=0.001, betas=(_MOMENTUM, 0.999)),
    "AdamW": partial(torch.optim.AdamW, lr=0.001, betas=(_MOMENTUM, 0.999)),
    "RMSProp": partial(torch.optim.RMSprop, lr=0.001, momentum=_MOMENTUM),
}
SUMMED = "the sum of the outputs"
GIVEN = "as it is"
ON_VALUES = "run with made-up values in the outputs' place, as it depends on them"
"""What the loss was: nobody's, counted without values like the model, or with values."""


def optimizer_named(name: str) -> str:
    """Return an optimizer's name as PyTorch writes it; raises DeviceError where there is none."""
    found = next((known for known in OPTIMIZERS if known.lower() == name.lower()), None)
    if found is None:
        raise DeviceError(f"no optimizer is called {name!r}, only {', '.join(OPTIMIZERS)}")
    return found


@dataclass
class Steps:
    """Two steps of one run, and what is seen of them.

    gradients, state: bytes, after the optimizer has stepped; loss: what it was, one of the three above.
    """

    optimizer: str
    foreach: bool
    block: int
    keeps_gradients: bool
    validates: Union[bool, Callable[[Any], Any]]
    checkpointed: Sequence[str] = ()
    recorder: Any = None
    gradients: int = 0
    state: int = 0
    loss: str = SUMMED
    no_validation: str = ""

    def observe(self, copied: ModelCopy) -> StepRecorder:
        """Make the recorder of the run."""
        self.recorder = StepRecorder(copied, self.block)
        return self.recorder

    def drive(self, driven: Driven) -> None:
        """Take the steps; what they have made is let go of."""
        recorder, model = self.recorder, driven.model
        checkpoint_modules(driven, self.checkpointed)
        optimizer = OPTIMIZERS[self.optimizer](parameter_groups(model), foreach=self.foreach)
        for tensor in tensors_in(driven.also[1:]):
            recorder.storages.made(tensor)
        for turn in range(2):
            recorder.start(counts=bool(turn))
            out = driven.forward()
            loss = self._loss(driven, out)
            recorder.note_kept()
            recorder.enter_phase(BACKWARD)
            loss.backward()
            recorder.enter_phase(OPTIMIZER)
            optimizer.step()
            self.gradients = bytes_of((p.grad for p in model.parameters() if p.grad is not None), self.block)
            self.state = bytes_of(tensors_in(optimizer.state.values()), self.block)
            if turn or not self.keeps_gradients:
                optimizer.zero_grad()
        if self.validates:
            self._validate(driven)
        optimizer.state.clear()

    def _loss(self, driven: Driven, out: Any) -> Tensor:
        function, targets = driven.also
        if function is None:
            return total_of(out)
        self.recorder.enter_phase(LOSS)
        given = () if targets is None else (targets,)
        found = driven.of_outputs(lambda values: _scalar(function(values, *given)), out, self.recorder.forget_phase)
        self.loss = ON_VALUES if driven.why else GIVEN
        return found

    def _validate(self, driven: Driven) -> None:
        """Run the network as the average of it is validated: in evaluation, in half, on twice as many images."""
        self.recorder.begin_validation()
        failure = driven.mode.failure
        try:
            with torch.no_grad():  # type: ignore[no-untyped-call]
                dtype = torch.float16 if self.block > 1 else torch.float32
                driven.model.eval().to(dtype)
                out = driven.forward(partial(_doubled, dtype=dtype), False)
                made = self.validates(out) if callable(self.validates) else None
                del out, made
        except Exception as error:  # it decides by values, or takes other inputs
            self.no_validation, driven.mode.failure = in_few_words(error), failure


def parameter_groups(model: nn.Module) -> List[Dict[str, Any]]:
    """Biases, weights that decay, and those of norms; a parameter that several modules share is trained once."""
    groups: Dict[str, Dict[int, nn.Parameter]] = {"biases": {}, "decaying": {}, "norms": {}}
    for module in model.modules():
        of_module = "norms" if "Norm" in type(module).__name__ else "decaying"
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and not any(id(parameter) in group for group in groups.values()):
                groups["biases" if name == "bias" else of_module][id(parameter)] = parameter
    return [
        {"params": list(group.values()), "weight_decay": _DECAY * (name == "decaying")}
        for name, group in groups.items()
        if group
    ]


def total_of(out: Any) -> Tensor:
    """The sum of all floating-point outputs: a loss that takes no memory of its own."""
    found = [tensor for tensor in tensors_in((out,)) if tensor.is_floating_point() and tensor.requires_grad]
    if not found:
        raise DeviceError("no output of the model has a gradient: there is nothing to train")
    total = found[0].sum()
    for tensor in found[1:]:
        total = total + tensor.sum()
    return total


def _doubled(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    shape = (2 * tensor.shape[0], *tensor.shape[1:]) if tensor.dim() else ()
    return tensor.new_empty(shape, dtype=dtype if tensor.is_floating_point() else None)


def _scalar(found: Any) -> Tensor:
    """The number that a loss comes to, which may return its parts too, behind it."""
    first: Any = found[0] if isinstance(found, (tuple, list)) and found else found
    if not isinstance(first, Tensor) or not first.requires_grad:
        raise DeviceError(f"the loss returns no tensor with a gradient, but a {type(first).__name__}")
    return first if not first.dim() else first.sum()


def targets_for(targets: Any, batch: int, counted: Optional[int] = None) -> Any:
    """The targets of so many images: what a function makes of that number, or else what there is, repeated."""
    if callable(targets):
        return targets(batch)
    if counted is None or batch == counted:
        return targets

    def repeated(tensor: Tensor) -> Tensor:
        if not tensor.dim() or tensor.shape[0] != counted:
            return tensor
        return tensor[torch.arange(batch, device=tensor.device) % counted]

    return map_tensors(targets, repeated)
