"""Run a copy of a model once, under the eyes of an observer, and leave the model and the process as they were.

The copy is run on shapes alone, or for real where shapes are not enough.
"""

import gc
import re
import traceback
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .ambient import Ambient, PythonRandom
from .autocast import can_autocast, cuda_autocast
from .blame import is_for_lack_of_values
from .calls import CALLS_OF_MODULES, Calls
from .copier import Copier, Replica
from .copies import CopyTensor, real_copies, shape_copies
from .modes import OperatorMode
from .observer import Observer
from .shape_mode import ShapeMode
from .shape_tensor import THREAD, NeedsValues, in_few_words
from .surroundings import Surroundings, evict
from .unwrapping import NotCountable
from .whole import WholeOperators

Observe = Callable[[Replica], Observer]
Drive = Callable[[nn.Module, Callable[[], Any]], Any]


class Facts(NamedTuple):
    """What is known of a tensor that a run returned."""

    shape: Tuple[int, ...]
    dtype: torch.dtype
    strides: Tuple[int, ...]
    device: torch.device


@dataclass
class Run:
    """How a run went: what the model returned, each tensor replaced by its Facts, and in which mode it ran.

    mode: "shape" without values, "real" for a forward pass with arithmetic; why: what the shape run stumbled over.
    leftovers: what of the run somebody still holds, and where; empty unless a tensor could not be taken back.
    """

    output: Any
    mode: str
    why: str = ""
    leftovers: List[str] = field(default_factory=list)


def run(
    model: nn.Module,
    inputs: Sequence[Any],
    observe: Observe,
    on_shapes: bool = True,
    kwargs: Optional[Dict[str, Any]] = None,
    amp: bool = False,
    drive: Optional[Drive] = None,
) -> Run:
    """Run a copy of ``model`` on copies of ``inputs``, in evaluation mode and without gradients.

    With ``amp`` it is run as under autocast to float16 on CUDA, on shapes alone, which takes torch 2.4.

    With ``drive`` it is run with gradients and in training mode, on shapes alone: that is called with the copy and with
    what runs its forward, as often as it likes, and returns the output.

    It is run on shapes alone where that is possible, and for real where the lack of values is in the way or where
    ``on_shapes`` is False. ``observe`` is called with each copy and returns the observer of its run. Any other
    exception passes through: it is the model's own, or somebody's signal. The model, the inputs, what the model's code
    keeps elsewhere, and the state of the thread and of the random generators are as before in any case.

    Raises:
        NotCountable: the model is spread over several processes, or needs values and has none.
    """
    why = "a real run was asked for"
    if amp and not can_autocast():
        raise NotCountable("a run under autocast takes torch 2.4 or newer")
    if on_shapes or amp or drive:
        attempt = _Attempt(model, inputs, kwargs or {}, observe, ShapeMode(drive is not None), amp, drive)
        try:
            return attempt.go()
        except Exception as error:
            refuse_higher_order(error, attempt.failed_in)
            why = attempt.mode.failure or (in_few_words(error) if is_for_lack_of_values(error) else "")
            if not why:
                raise
            if amp or drive:
                what = "its training step" if drive else "under autocast its forward"
                raise NotCountable(f"{what} needs values ({why})") from error
            if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
                raise NotCountable(f"the model is on the meta device, and its forward needs values ({why})") from error
            traceback.clear_frames(error.__traceback__)  # they hold tensors of the run
        attempt.take_back(thoroughly=True)
    result = _Attempt(model, inputs, kwargs or {}, observe, OperatorMode()).go()
    result.why = why
    return result


class _Attempt:
    """One run of one copy."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[Any],
        kwargs: Dict[str, Any],
        observe: Observe,
        mode: OperatorMode,
        amp: bool = False,
        drive: Optional[Drive] = None,
    ) -> None:
        self.model, self.inputs, self.kwargs, self.observe, self.mode = model, inputs, kwargs, observe, mode
        self.amp, self.drive = amp, drive
        self.copier = Copier(self._copies(True), mode.on_shapes)
        self.copier.training = drive is not None
        self.calls: Optional[Calls] = None
        self.failed_in = ""
        self.surroundings: Optional[Surroundings] = None
        self.outer = THREAD.run
        self.over = False
        self.python_random: Optional[PythonRandom] = None
        self.modules: List[Any] = []  # weak references to the copy's, once it has been let go of

    def fail(self, error: BaseException) -> None:
        """Note that a value was asked for."""
        self.mode.fail(error)

    def _copies(self, of_model: bool) -> CopyTensor:
        return (shape_copies if self.mode.on_shapes else real_copies)(self.mode, of_model)

    def go(self) -> Run:
        """Run the copy; whatever happens, put things back, twice: an interrupt may cut the first time short."""
        ambient = Ambient()
        try:
            try:
                output = self._run(ambient)
            finally:
                self._put_back(ambient)
        finally:
            self._put_back(ambient)
        leftovers = self.take_back(thoroughly=True)
        return Run(output, "shape" if self.mode.on_shapes else "real", leftovers=leftovers)

    def _run(self, ambient: Ambient) -> Any:
        ambient.set_aside()
        THREAD.run = None
        torch._C._set_grad_enabled(self.drive is not None)
        replica = self.copier.replica(self.model)
        self.copier.copy_tensor = self._copies(False)
        arguments = self.copier.copy(tuple(self.inputs))
        keywords = self.copier.copy(dict(self.kwargs))
        self.copier.copy_tensor = self._copies(True)
        _settle(replica, training=self.drive is not None)
        observer = self.observe(replica)
        self.surroundings = Surroundings(replica.modules, self.copier.functions)
        if self.surroundings.mentions_random:
            self.python_random = PythonRandom()
        self.calls = Calls(self.copier, replica, observer, self.mode)
        observer.begin(arguments)
        self.mode.report = observer.operator
        CALLS_OF_MODULES.put_on(self)
        runs_whole = self.surroundings.runs_whole and self.drive is None  # what runs whole has no gradient
        whole: Any = WholeOperators(self.mode, self.amp) if runs_whole else nullcontext()

        def forward() -> Any:
            with cuda_autocast() if self.amp else nullcontext():
                return replica.model(*arguments, **keywords)

        with self.mode, whole:
            THREAD.run = self
            output = forward() if self.drive is None else self.drive(replica.model, forward)
            THREAD.run = None
        if self.mode.failure:  # the model has caught it and taken another way than with real values
            raise NeedsValues(self.mode.failure)
        observer.end()
        return _described(output)

    def _put_back(self, ambient: Ambient) -> None:
        if self.over:
            return
        THREAD.run = self.outer
        ambient.restore()
        CALLS_OF_MODULES.take_off(self)
        if self.python_random is not None:
            self.python_random.restore()
        if self.calls is not None:
            self.failed_in = self.calls.failed_in
            self.modules = [weakref.ref(module) for module in self.calls.replica.modules]
            self.calls.let_go()
            self.calls = None
        self.copier.let_go()
        self.take_back(thoroughly=False)
        self.over = True

    def take_back(self, thoroughly: bool) -> List[str]:
        """Take the run's tensors out of wherever the model has put them, and say what is left.

        ``thoroughly`` asks the garbage collector too; it would find what an exception on its way holds.
        """
        if self.surroundings is not None and self._left():
            self.surroundings.give_back(self._left())
        if thoroughly and self._left():
            gc.collect()
            if self._left():
                evict(self._left())
            return [
                f"a tensor of shape {tuple(left.shape)}" if isinstance(left, Tensor) else f"a {type(left).__name__}"
                for left in self._left()
            ]
        return []

    def _left(self) -> List[Any]:
        """Return the tensors and modules of the run that are alive and should not be."""
        modules = [module for module in [reference() for reference in self.modules] if module is not None]
        return [*self.mode.leftovers(), *modules]


def refuse_higher_order(error: Exception, where: str) -> None:
    """Raise NotCountable for what PyTorch lets no dispatch mode see: ``torch.cond``, ``flex_attention``."""
    found = re.search(r"no rule registered for H\S+ (\w+)", str(error))
    if found:
        name = found.group(1)
        raise NotCountable(f"{where or 'the model'} calls {name}, whose operators PyTorch shows to nobody") from None


def _described(output: Any) -> Any:
    """Replace every tensor of what a model returned by what is known of it."""
    if isinstance(output, Tensor):
        return Facts(tuple(output.shape), output.dtype, tuple(output.stride()), output.device)
    if isinstance(output, dict):
        return {key: _described(value) for key, value in output.items()}
    if isinstance(output, (list, tuple)):
        return [_described(value) for value in output]
    return type(output)


def _settle(replica: Replica, training: bool) -> None:
    """Put a copy into its mode, and keep its transformer layers from the fused path that skips their parts."""
    if any(type(module).train is not nn.Module.train for module in replica.modules):
        replica.model.train(training)
    for module in replica.modules:
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):  # padding would make nested tensors for that path
            module.enable_nested_tensor = module.use_nested_tensor = False


__all__ = ["Facts", "NotCountable", "Run", "in_few_words", "run"]
