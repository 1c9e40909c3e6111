"""Run a copy of a model once, under the eyes of an observer, and leave the model and the process as they were.

The copy is run on shapes alone, or for real where shapes are not enough.
"""

import contextvars
import decimal
import gc
import re
import sys
import threading
import time
import traceback
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .ambient import Ambient, Generators
from .autocast import can_autocast, cuda_autocast
from .calls import CALLS_OF_MODULES, Calls, Observer
from .copier import Copier, ModelCopy
from .copies import ELSEWHERE, INPUTS, MODEL, CopyTensor, real_copies, shape_copies
from .dispatch import OperatorMode, ShapeMode, unobserved
from .driven import Drive, Driven
from .fused import LAYERS_OF_ONE, NAMES_OF_ONE, WatchedFunctions
from .inputs import NotCountable, trains_as_a_module
from .namespaces import Named, is_foreign, named_by
from .nested import map_tensors, tensors_in
from .shape_tensor import THREAD, NeedsValues, in_few_words, is_for_lack_of_values
from .taken_down import TakenDown, evict
from .torch_private import FUNCTION_MODES_LAST, set_grad_enabled

Observe = Callable[[ModelCopy], Observer]


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
    leftovers: what of the run was found in a place that nobody had named, and taken out; empty as a rule. observer:
    that which has heard of it.
    """

    output: Any
    mode: str
    observer: Any = field(repr=False)
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
    also: Sequence[Any] = (),
) -> Run:
    """Run a copy of ``model`` on copies of ``inputs``, in evaluation mode and without gradients.

    With ``amp`` it is run as under autocast to float16 on CUDA, on shapes alone, which takes torch 2.4.

    With ``drive`` it is run with gradients and in training mode, on shapes alone: that is called with the copy, with
    what runs its forward, as often as it likes, and with copies of what is ``also`` needed, and returns the output.

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

    def attempt(mode: OperatorMode) -> Tuple[Optional[Run], str]:
        return _attempt(lambda copies: _Attempt(model, inputs, kwargs or {}, observe, mode, amp, drive, also, copies))

    if on_shapes or amp or drive:
        outcome, why = attempt(ShapeMode(drive is not None))
        if outcome is not None:
            return outcome
        if amp or drive:
            what = "its training step" if drive else "under autocast its forward"
            raise NotCountable(f"{what} needs values ({why})")
        if _is_on_meta(model):
            raise NotCountable(f"the model is on the meta device, and its forward needs values ({why})")
    outcome, failure = attempt(OperatorMode())
    if outcome is None:
        raise NotCountable(failure)
    outcome.why = why
    return outcome


def _attempt(make: Callable[[bool], "_Attempt"]) -> Tuple[Optional[Run], str]:
    """Run one copy, or another one with arrays of its own where it writes to them; return how it went.

    Where it has failed for a lack of values there is none, and the reason; any other exception passes through.
    """
    for copies_arrays in (False, True):
        attempt = make(copies_arrays)
        try:
            return attempt.go(), ""
        except Exception as error:
            refuse_higher_order(error, attempt.failed_in)
            writes_to_array = isinstance(error, ValueError) and "read-only" in str(error) and not copies_arrays
            why = attempt.mode.failure or (in_few_words(error) if is_for_lack_of_values(error) else "")
            why = why if attempt.mode.on_shapes else ""
            if isinstance(error, NotCountable) or not (why or writes_to_array):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold tensors of the run
        attempt.drop_what_was_heard()
        attempt.take_back()
        if not writes_to_array:
            return None, why
    return None, why


_TURN: Dict[str, "_Attempt"] = {}
"""Whose turn it is: two threads would each take down what the other has put in a place.

It is no lock, which an interrupt could leave locked: each step can be done again."""


class _Attempt:
    """One run of one copy."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[Any],
        kwargs: Dict[str, Any],
        observe: Observe,
        mode: OperatorMode,
        amp: bool,
        drive: Optional[Drive],
        also: Sequence[Any],
        copies_arrays: bool,
    ) -> None:
        self.model, self.observe, self.mode = model, observe, mode
        self.inputs, self.kwargs = tuple(inputs), dict(kwargs)
        self.amp, self.drive, self.also = amp, drive, tuple(also)
        self.copier = Copier(self._copies(MODEL), mode.on_shapes, self.refuse, copies_arrays)
        self.copier.training = drive is not None
        self.calls: Optional[Calls] = None
        self.observer: Any = None
        self.failed_in = ""
        self.refusal: Optional[Exception] = None
        self.taken_down = TakenDown(self.copier)
        self.named: List[Named] = []
        self.outer, self.thread = THREAD.run, threading.get_ident()
        self.over = False
        self.generators: Optional[Generators] = None
        self.modules: List[Any] = []  # weak references to the copy's, once it has been let go of

    def fail(self, error: BaseException) -> None:
        """Note that a value was asked for."""
        self.mode.fail(error)

    def refuse(self, error: Exception) -> None:
        """Note that the model can't be counted, whatever it makes of being told so."""
        self.refusal = self.refusal or error

    def _copies(self, whose: str) -> CopyTensor:
        return (shape_copies if self.mode.on_shapes else real_copies)(self.mode, whose)

    def go(self) -> Run:
        """Run the copy; whatever happens, put things back, twice: an interrupt may cut the first time short."""
        ambient = Ambient()
        try:
            try:
                self._wait_for_turn()
                output = contextvars.copy_context().run(self._run, ambient)
            finally:
                self._put_back(ambient)
        finally:
            self._put_back(ambient)
        mode = "shape" if self.mode.on_shapes else "real"
        return Run(output, mode, self.observer, leftovers=self.take_back())

    def _wait_for_turn(self) -> None:
        """Wait until no other thread has a run; a run inside of a run of this thread goes on."""
        while True:
            holder = _TURN.setdefault("holder", self)
            if holder is self or holder.thread == self.thread:
                return
            if holder.thread not in {thread.ident for thread in threading.enumerate()}:  # as after a fork
                _TURN["holder"] = self
            time.sleep(0.0005)

    def _run(self, ambient: Ambient) -> Any:
        decimal.setcontext(decimal.getcontext().copy())
        ambient.set_aside()
        sys.setrecursionlimit(2 * sys.getrecursionlimit())  # a watched call nests deeper than a real one
        THREAD.run = None
        set_grad_enabled(self.drive is not None)
        self.generators = Generators()
        copied = self.copier.copy_model(self.model)
        self.copier.copy_tensor = self._copies(INPUTS)
        arguments, keywords = self.copier.copy(self.inputs), self.copier.copy(self.kwargs)
        also = self._copy_of_others()
        of_modules, of_others = self._copies(MODEL), self._copies(ELSEWHERE)
        self.copier.copy_tensor = lambda tensor: (of_others if self.copier.owner is None else of_modules)(tensor)
        self.copier.training = None  # what the model does not hold keeps its own flag
        _settle(copied, training=self.drive is not None)
        self._take_down(copied)
        observer = self.observer = self.observe(copied)
        self.calls = Calls(self.copier, copied, observer, self.mode)
        observer.begin((*arguments, keywords))
        self.mode.report, self.mode.hands_out = observer.operator, observer.hands_out
        self.mode.taken_apart = observer.taken_apart
        CALLS_OF_MODULES.put_on(self)
        around = cuda_autocast if self.amp else nullcontext

        def forward(change: Any = lambda tensor: tensor, as_trained: bool = True) -> Any:
            given = arguments, keywords
            if self.drive is not None:  # it may be called again, after it has emptied its own dictionary
                given = map_tensors(given, change)
            with around() if as_trained else nullcontext():
                return copied.model(*given[0], **given[1])

        watch: Any = nullcontext()
        if FUNCTION_MODES_LAST or not self.mode.on_shapes or self._calls_what_is_one(copied):
            watch = WatchedFunctions(self.mode, runs_whole=self.drive is None, on_cuda=self.amp)
        with self.mode, watch:
            THREAD.run = self
            driven = Driven(copied.model, forward, also, self.mode, around)
            output = forward() if self.drive is None else self.drive(driven)
            del driven
            THREAD.run = None
        if self.refusal is not None:
            raise self.refusal
        if self.mode.failure:  # the model has caught it and taken another way than with real values
            raise NeedsValues(self.mode.failure)
        observer.end(output)
        try:
            return map_tensors(output, _facts)
        except Exception:  # an object that lets nobody copy it
            return [_facts(tensor) for tensor in tensors_in((output,))]

    def _calls_what_is_one(self, copied: ModelCopy) -> bool:
        """Say whether the copy may call what a device runs as one operator and PyTorch takes apart."""
        named = any(not found.words.isdisjoint(NAMES_OF_ONE) for found in self.named)
        return named or any(isinstance(module, LAYERS_OF_ONE) for module in copied.modules)

    def _copy_of_others(self) -> Tuple[Any, ...]:
        """Copy what the driver needs: tensors with their values, but for those of modules."""
        with_values, of_modules = real_copies(self.mode, INPUTS), self._copies(MODEL)
        self.copier.copy_tensor = lambda t: (
            with_values if self.copier.owner is None and not t.is_meta else of_modules
        )(t)
        found: Tuple[Any, ...] = self.copier.copy(self.also)
        return found

    def _take_down(self, copied: ModelCopy) -> None:
        """Note what the copy's code can write to, and replace what must be copied."""
        shared = [type(value) for value in (*self.copier.helpers, *self.copier.reach.barren.values())]
        self.named = [named_by(dict.fromkeys([*map(type, copied.modules), *filter(_may_have_code, shared)]))]
        if self.copier.functions:
            self.named.append(Named(self.copier.functions))
        self.named += self.taken_down.take(self.named)
        asks = next((found.asks_builtins for found in self.named if found.asks_builtins), "")
        if asks and self.mode.on_shapes and not (self.amp or self.drive or _is_on_meta(self.model)):
            raise NeedsValues(f"{asks} may ask builtins for the class of a tensor")

    def joins(self, module: nn.Module) -> None:
        """Take down what a module's code can write to that the model calls and does not hold."""
        found = named_by([type(module)])
        if found not in self.named:
            self.named.append(found)
            self.named += self.taken_down.take([found])

    def _put_back(self, ambient: Ambient) -> None:
        if self.over:
            return
        THREAD.run = self.outer
        ambient.set_aside()
        if self.generators is not None:
            self.generators.restore(any(found.of_seeds for found in self.named))
        ambient.restore()
        CALLS_OF_MODULES.take_off(self)
        self.taken_down.put_back()
        if self.calls is not None:
            self.failed_in = self.calls.failed_in
            self.modules = [weakref.ref(module) for module in self.calls.copied.modules]
            self.calls.let_go()
            self.calls = None
        self.copier.let_go()
        if _TURN.get("holder") is self:
            _TURN.pop("holder", None)
        self.over = True

    def drop_what_was_heard(self) -> None:
        """Let go of the observer, which knows modules of the copy until the run has come to its end."""
        self.observer, mode = None, self.mode
        mode.report = mode.hands_out = mode.taken_apart = unobserved

    def take_back(self) -> List[str]:
        """Take the run's tensors out of places that nobody has named, and say which these were.

        The garbage collector finds them; it would find what an exception on its way holds, too.
        """
        if not self._left():
            self.copier.__dict__.clear()  # it refers back to this run, which would wait for the garbage collector
            return []
        for generation in range(3):  # the run's own objects are young: to go through all of torch's takes long
            gc.collect(generation)
            if not self._left():
                return []
        left = self._left()
        what = ", ".join(
            f"a tensor of shape {tuple(one.shape)}" if isinstance(one, Tensor) else f"a {type(one).__name__}"
            for one in left[:3]
        )
        places = evict(left)
        del left
        gc.collect()
        still = [f"{what} is still held by what can't be written to"] if self._left() else []
        return [f"{what} was taken out of {place}" for place in dict.fromkeys(places)] + still

    def _left(self) -> List[Any]:
        """Return the tensors and modules of the run that are alive and should not be."""
        modules = [module for module in [reference() for reference in self.modules] if module is not None]
        return [*self.mode.leftovers(), *modules]


def refuse_higher_order(error: Exception, where: str) -> None:
    """Raise NotCountable for what PyTorch lets no dispatch mode see: ``torch.cond``, ``flex_attention``."""
    found = re.search(r"no rule registered for H\S+ (\w+)|^(\w+) doesn't work unless it is captured", str(error))
    if found:
        name = (found.group(1) or found.group(2)).lower()
        raise NotCountable(f"{where or 'the model'} calls {name}, whose operators PyTorch shows to nobody") from None


def _is_on_meta(model: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def _facts(tensor: Tensor) -> Facts:
    return Facts(tuple(tensor.shape), tensor.dtype, tuple(tensor.stride()), tensor.device)


def _may_have_code(kind: type) -> bool:
    """Say whether a class has methods in Python that no other package keeps to itself."""
    return bool(kind.__flags__ & 0x200) and not is_foreign(kind.__module__)


def _settle(copied: ModelCopy, training: bool) -> None:
    """Put a copy into its mode, and keep its transformer layers from the fused path that skips their parts."""
    kinds = {type(module) for module in copied.modules}
    if any(kind.train is not nn.Module.train for kind in kinds):
        foreign = [module for module in copied.modules if not trains_as_a_module(type(module))]
        for module in foreign:  # which does something else by this name, such as to start a training
            module.__dict__["train"] = partial(nn.Module.train, module)
        copied.model.train(training)
        for module in foreign:
            module.__dict__.pop("train", None)
    transformers = nn.TransformerEncoderLayer, nn.TransformerEncoder
    for module in copied.modules if any(issubclass(kind, transformers) for kind in kinds) else ():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):  # padding would make nested tensors for that path
            module.enable_nested_tensor = module.use_nested_tensor = False
