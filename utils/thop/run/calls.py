"""How the modules of a copy are called: under the eyes of an observer, and heard by nobody else.

Each copied module has a watched forward. While a run goes on, ``nn.Module`` leads the calls of this thread here: so
that the global hooks of somebody else do not hear of the copy, and so that a module which was not copied (one that is
made in the forward, or found in a global or a class) is copied when it is called.
"""

import weakref
from types import FunctionType
from typing import Any, Callable, Dict, List, Set, Tuple

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .ambient import autocast_is_on
from .copier import Copier, Replica
from .layer_rules import LAYER_RULES
from .modes import OperatorMode, no_torch_function
from .observer import Observer
from .operator_rules import SHAPE_RULES
from .shape_tensor import THREAD, ShapeTensor

Forward = Callable[..., Any]


class Calls:
    """The calls of one run.

    forwards: of each module that is known, by its id, the watched forward and what that runs.
    """

    def __init__(self, copier: Copier, replica: Replica, observer: Observer, mode: OperatorMode) -> None:
        self.copier, self.replica, self.observer, self.mode = copier, replica, observer, mode
        self.forwards: Dict[int, Tuple[Forward, Forward]] = {}
        self.watched = 0
        self.made_by_model: List[nn.Module] = []
        self.running: List[nn.Module] = []
        self.watch()

    def watch(self) -> None:
        """Let the observer hear of every forward of the copy's modules, of those that have joined it too."""
        modules = self.replica.modules
        for module in modules[self.watched :]:
            self._watch(module)
        self.watched = len(modules)

    def _watch(self, module: nn.Module) -> None:
        own = module.__dict__.get("forward")
        forward = self._by_rule(module)
        watched: Any = self._watched(module, forward)
        watched.unwatched_forward = own
        module.__dict__["forward"] = watched
        self.forwards[id(module)] = watched, forward

    def join(self, original: nn.Module) -> nn.Module:
        """Copy a module that the model calls and does not hold; it keeps its own training flag."""
        if self.mode.made(original):
            self.made_by_model.append(original)
            self._watch(original)
            return original
        self.copier.training = None
        duplicate = self.copier.copy(original)
        self.watch()
        return duplicate

    def saved_forward(self, module: nn.Module, function: Forward, args: Any, kwargs: Any) -> Any:
        """Run a forward that was kept before the run: as a call of its module, if it is not part of one."""
        if self.running and self.running[-1] is module:
            return function(module, *args, **kwargs)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return function(module, *args, **kwargs)

        return self._watched(module, forward)(*args, **kwargs)

    def _watched(self, module: nn.Module, forward: Forward) -> Forward:
        enter, leave, abandon = self.observer.enter, self.observer.leave, self.observer.abandon
        running = self.running

        def forward_watched(*args: Any, **kwargs: Any) -> Any:
            token = enter(module)
            running.append(module)
            try:
                out = forward(*args, **kwargs)
            except BaseException:
                running.pop()
                abandon(token)
                raise
            running.pop()
            leave(token, args, kwargs, out)
            return out

        return forward_watched

    def _by_rule(self, module: nn.Module) -> Forward:
        """Return what a module's forward is to be run by: its layer rule, where there is one, or itself."""
        forward, mode = module.forward, self.mode
        rule = LAYER_RULES.find(module) if mode.on_shapes else None
        if rule is None:
            return forward
        references, reference = mode.references, weakref.ref

        def one_operator(*args: Any, **kwargs: Any) -> Any:
            x: Any = args[0] if len(args) == 1 and not kwargs else None
            found = rule(module, x) if type(x) is ShapeTensor and not autocast_is_on() else None
            if found is None:
                return forward(*args, **kwargs)
            func, arguments = found
            with no_torch_function():
                out = SHAPE_RULES[func](*arguments)
                if out is not NotImplemented:
                    mode.report(func, arguments, {}, out)
            if out is NotImplemented:
                return forward(x)
            out = out if isinstance(out, Tensor) else out[0]
            references.append(reference(out))
            return out

        return one_operator

    def let_go(self) -> None:
        """Take the watched forwards off again: one that its own module refers to waits for the garbage collector."""
        for module in (*self.replica.modules, *self.made_by_model):
            watched = module.__dict__.pop("forward", None)
            own = getattr(watched, "unwatched_forward", None)
            if own is not None:
                module.__dict__["forward"] = own
        self.forwards = {}


_NO_HOOKS: Dict[str, Any] = {
    name: {} for name in vars(torch_module) if name.startswith("_global_") and name.endswith("hooks")
}
_CALL = "_call_impl" if hasattr(nn.Module, "_wrapped_call_impl") else "__call__"
"""What a call of a module comes to; to replace it costs less than to replace ``__call__``, where that is another."""
_torch_call: Any = vars(nn.Module)[_CALL]
_call_with_hooks = FunctionType(_torch_call.__code__, {**_torch_call.__globals__, **_NO_HOOKS}, _CALL)
"""What PyTorch does where a module has hooks of its own, in a namespace without global ones."""


class _Patch:
    """``nn.Module`` while any thread has a run: other threads are let through to what was there before."""

    def __init__(self) -> None:
        self.runs: Set[int] = set()
        self.original: Any = None

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            run = THREAD.run
            if run is None:
                return self.original(module, *args, **kwargs)
            calls = run.calls
            known = calls.forwards.get(id(module))
            if known is None:
                module = calls.join(module)
                known = calls.forwards[id(module)]
            if module._forward_hooks or module._forward_pre_hooks:
                return _call_with_hooks(module, *args, **kwargs)
            watched, forward = known  # what ``watched`` does, spelt out: a run nests no deeper than a real call
            if module.__dict__.get("forward") is not watched:
                forward = module.forward
            observer, running = calls.observer, calls.running
            token = observer.enter(module)
            running.append(module)
            try:
                out = forward(*args, **kwargs)
            except BaseException:
                running.pop()
                observer.abandon(token)
                raise
            running.pop()
            observer.leave(token, args, kwargs, out)
            return out

        self.function: Any = call

    def put_on(self, run: Any) -> None:
        """Lead calls here for as long as this run goes on.

        There is no lock, which an interrupt could leave locked: each step can be done again, by any thread.
        """
        self.runs.add(id(run))
        if vars(nn.Module)[_CALL] is not self.function:
            self.original = vars(nn.Module)[_CALL]
            setattr(nn.Module, _CALL, self.function)

    def take_off(self, run: Any) -> None:
        """The run is over; once none goes on any more, calls are as before."""
        self.runs.discard(id(run))
        if not self.runs and vars(nn.Module)[_CALL] is self.function:
            setattr(nn.Module, _CALL, self.original)
            if self.runs:  # another thread has begun one in between
                setattr(nn.Module, _CALL, self.function)


CALLS_OF_MODULES = _Patch()
