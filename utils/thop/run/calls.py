"""How the modules of a copy are called: under the eyes of an observer, and heard by nobody else.

Each copied module has a watched forward. While a run goes on, ``nn.Module`` leads the calls of this thread here: so
that the global hooks of somebody else do not hear of the copy, and so that a module which was not copied (one that is
made in the forward, or found in a global or a class) is copied when it is called.
"""

import weakref
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from torch import Tensor, nn

from .copier import Copier, ModelCopy
from .dispatch import OperatorMode
from .module_rules import LAYER_RULES, LayerRule
from .shape_tensor import THREAD, ShapeTensor, pass_on
from .torch_private import CALL, autocast_is_on, call_with_hooks, no_torch_function


class Observer:
    """Hears of every module that starts and ends, and of every ATen operator in between.

    The methods do nothing here; a ledger overrides those that it needs. Nothing of the run may be kept: neither
    modules nor tensors.
    """

    def begin(self, arguments: Tuple[Any, ...]) -> None:
        """The run starts, with these arguments, those by keyword in a dictionary at the end."""

    def enter(self, module: nn.Module) -> Any:
        """A module's forward starts. What is returned comes back in ``leave`` or ``abandon``."""

    def leave(self, token: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        """The forward that began with ``token`` has returned ``out``."""

    def abandon(self, token: Any) -> None:
        """The forward that began with ``token`` has raised."""

    def operator(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        """An ATen operator has run."""

    def taken_apart(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        """An ATen operator has run as others, which have been heard of."""

    def hands_out(self, what: str) -> None:
        """Values of a tensor have left PyTorch, as ``what``: what is done with them nobody sees."""

    def end(self, output: Any) -> None:
        """The run has come to its end, with what the model returned; the copy is still there."""


Forward = Callable[..., Any]
_NO_RULE: Any = None, {}


class WatchedForward:
    """The forward of a module of the copy, which the observer hears of.

    forward: what it runs; rule: the layer rule in its place, if there is one; unwatched_forward: what the module itself
    had under this name, if anything.
    """

    __slots__ = ("calls", "forward", "module", "rule", "unwatched_forward")

    def __init__(self, calls: "Calls", module: nn.Module, forward: Forward, rule: Optional[LayerRule]) -> None:
        self.calls, self.module, self.forward, self.rule = calls, module, forward, rule
        self.unwatched_forward = module.__dict__.get("forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward between ``enter`` and ``leave``."""
        calls = self.calls
        if self.rule is not None and len(args) == 1 and not kwargs:
            made = calls.by_layer_rule(self.rule, self.module, args[0])
            if made is not None:
                return made
        observer, running = calls.observer, calls.running
        token = observer.enter(self.module)
        running.append(self.module)
        try:
            out = self.forward(*args, **kwargs)
        except BaseException:
            running.pop()
            observer.abandon(token)
            calls.failed_in = calls.failed_in or type(self.module).__name__
            raise
        running.pop()
        observer.leave(token, args, kwargs, out)
        return out

    def __deepcopy__(self, memo: Dict[int, Any]) -> Any:
        """Stand in for the forward of a copy that the model makes of the module."""
        return ForgottenForward(memo.get(id(self.module), self.module))

    @property
    def __wrapped__(self) -> Forward:
        """What ``inspect.signature`` looks at."""
        return self.forward


class ForgottenForward:
    """The forward that a module has whose own was copied from a watched one: its class's, until it is watched too."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the class's forward."""
        return type(self.module).forward(self.module, *args, **kwargs)


class Calls:
    """The calls of one run; forwards: the watched forward of each module that is known, by the module's id."""

    def __init__(self, copier: Copier, copied: ModelCopy, observer: Observer, mode: OperatorMode) -> None:
        self.copier, self.copied, self.observer, self.mode = copier, copied, observer, mode
        self.forwards: Dict[int, WatchedForward] = {}
        self.rules = LAYER_RULES.in_force() if mode.on_shapes and not mode.with_gradients else {}
        self.watched = 0
        self.running: List[nn.Module] = []
        self.failed_in = ""
        self.watch()

    def watch(self) -> None:
        """Let the observer hear of every forward of the copy's modules, of those that have joined it too."""
        modules = self.copied.modules
        for module in modules[self.watched :]:
            self._watch(module)
        self.watched = len(modules)

    def _watch(self, module: nn.Module) -> None:
        fields = module.__dict__
        if type(fields.get("forward")) is ForgottenForward:
            del fields["forward"]
        rule, methods = self.rules.get(type(module), _NO_RULE)
        for method in methods:
            rule = None if method in fields else rule  # somebody has replaced it in this module
        self.forwards[id(module)] = fields["forward"] = WatchedForward(self, module, module.forward, rule)

    def join(self, original: nn.Module) -> nn.Module:
        """Copy a module that the model calls and does not hold; it keeps its own training flag."""
        if self.mode.made(original):
            self._watch(original)
            return original
        self.copier.originals.append(original)  # or another one that is made later may get its identity
        with self.mode.unheard():
            duplicate = self.copier.copy(original)
            THREAD.run.joins(duplicate)
        self.watch()
        return duplicate

    def saved_forward(self, module: nn.Module, function: Forward, args: Any, kwargs: Any) -> Any:
        """Run a forward that was kept before the run: as a call of its module, if it is not part of one."""
        if self.running and self.running[-1] is module:
            return function(module, *args, **kwargs)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return function(module, *args, **kwargs)

        return WatchedForward(self, module, forward, None)(*args, **kwargs)

    def by_layer_rule(self, rule: LayerRule, module: nn.Module, x: Any) -> Optional[Tensor]:
        """Return what a layer returns that comes to one operator; None where its forward has to be run."""
        if type(x) is not ShapeTensor or autocast_is_on():
            return None
        with no_torch_function():
            found = rule(module, x)
            if found is None:
                return None
            func, arguments = found
            shape_rule = self.mode.rules.get(id(func))
            out = NotImplemented if shape_rule is None else shape_rule(*arguments)
            if out is NotImplemented:
                return None
            pass_on((x,), out)  # the others are the layer's own
            made: Tensor = out[0] if isinstance(out, tuple) else out
            token = self.observer.enter(module)
            self.observer.operator(func, arguments, {}, out)
            self.observer.leave(token, (x,), {}, made)
        self.mode.references.append(weakref.ref(made))
        return made

    def let_go(self) -> None:
        """Take the watched forwards off again: one that its own module refers to waits for the garbage collector."""
        for watched in self.forwards.values():
            fields = watched.module.__dict__
            if fields.pop("forward", None) is watched and watched.unwatched_forward is not None:
                fields["forward"] = watched.unwatched_forward
        self.forwards = {}


class _Patch:
    """``nn.Module`` while any thread has a run: other threads are let through to what was there before."""

    def __init__(self) -> None:
        self.runs: Set[int] = set()
        self.original: Any = None

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            run = THREAD.run
            if run is None:
                return self.original(module, *args, **kwargs)
            calls: Calls = run.calls
            watched: Any = calls.forwards.get(id(module))
            if watched is None:
                module = calls.join(module)
                watched = calls.forwards[id(module)]
            attributes = module.__dict__
            if attributes["_forward_hooks"] or attributes["_forward_pre_hooks"]:
                return call_with_hooks(module, *args, **kwargs)
            if attributes.get("forward") is not watched:  # somebody has replaced it in the run
                watched = WatchedForward(calls, module, module.forward, None)
            return watched(*args, **kwargs)

        self.function: Any = call

    def put_on(self, run: Any) -> None:
        """Lead calls here for as long as this run goes on.

        There is no lock, which an interrupt could leave locked: each step can be done again, by any thread.
        """
        self.runs.add(id(run))
        if vars(nn.Module)[CALL] is not self.function:
            self.original = vars(nn.Module)[CALL]
            setattr(nn.Module, CALL, self.function)

    def take_off(self, run: Any) -> None:
        """The run is over; once none goes on any more, calls are as before."""
        self.runs.discard(id(run))
        if not self.runs and vars(nn.Module)[CALL] is self.function:
            setattr(nn.Module, CALL, self.original)
            if self.runs:  # another thread has begun one in between
                setattr(nn.Module, CALL, self.function)


CALLS_OF_MODULES = _Patch()
