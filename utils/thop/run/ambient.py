"""The state of the thread and the process around a run: put aside before it, and back as it was after it.

PyTorch keeps what is in force (dispatch modes, no-grad, autocast) in the thread. A run sets other people's modes
aside, so that none of them hears what the copy of a model does; and whatever way it ends, an interrupt at any moment
included, :meth:`Ambient.restore` compares what is with what was. It may be called twice: an interrupt that cuts the
first call short finds the second.
"""

import gc
import random
import sys
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, List, Tuple

import torch

from .torch_private import (
    DEFAULT_DEVICE,
    DISPATCH_MODES,
    FUNCTION_MODES,
    GLOBAL_HOOKS,
    as_functions_are_heard,
    autocast_is_on,
    mode_flags,
    restore_mode_flags,
    set_grad_enabled,
)


def _autocast_state() -> List[Tuple[Callable[..., Any], Tuple[Any, ...]]]:
    """Return what autocast is set to, as calls that set it so."""
    state: List[Tuple[Callable[..., Any], Tuple[Any, ...]]] = [
        (torch.set_autocast_cache_enabled, (torch.is_autocast_cache_enabled(),))
    ]
    if hasattr(torch, "get_autocast_dtype"):
        for device in ("cpu", "cuda"):
            state.append((torch.set_autocast_enabled, (device, torch.is_autocast_enabled(device))))
            state.append((torch.set_autocast_dtype, (device, torch.get_autocast_dtype(device))))
        return state
    state.append((torch.set_autocast_enabled, (torch.is_autocast_enabled(),)))
    state.append((torch.set_autocast_cpu_enabled, (torch.is_autocast_cpu_enabled(),)))
    state.append((torch.set_autocast_cpu_dtype, (torch.get_autocast_cpu_dtype(),)))
    state.append((torch.set_autocast_gpu_dtype, (torch.get_autocast_gpu_dtype(),)))
    return state


_IN_AND_OUT = torch.autocast_increment_nesting, torch.autocast_decrement_nesting


def _autocast_nesting() -> int:
    """Count the autocast contexts in force; both calls are made from C, where no interrupt comes between them."""
    return tuple(map(type(_IN_AND_OUT[0]).__call__, _IN_AND_OUT))[1]


def _restore_nesting(nesting: int) -> None:
    while _autocast_nesting() > nesting:
        torch.autocast_decrement_nesting()
    while _autocast_nesting() < nesting:
        torch.autocast_increment_nesting()


Setting = Tuple[Callable[[], Any], Callable[[Any], Any]]


def _attribute(owner: Any, name: str) -> Setting:
    return (lambda: getattr(owner, name, None)), (lambda value: setattr(owner, name, value))


_SETTINGS: List[Setting] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
     lambda mode: torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])),
    *(_attribute(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    *(_attribute(owner, name) for owner, name in DEFAULT_DEVICE),
]  # fmt: skip
"""What of the process a forward may set, and how it is set back."""


class Settings:
    """The settings of the process as they were when it was made."""

    def __init__(self) -> None:
        self.values = [get() for get, _ in _SETTINGS]
        self.hooks = [dict(held) for held in GLOBAL_HOOKS.values()]
        self.filters = list(warnings.filters)
        numpy: Any = sys.modules.get("numpy")
        self.errors: Any = numpy.geterr() if numpy is not None else None

    def restore(self) -> None:
        """Set everything back that is not as it was."""
        for (get, put), value in zip(_SETTINGS, self.values):
            if get() != value:
                put(value)
        for held, before in zip(GLOBAL_HOOKS.values(), self.hooks):
            if held.keys() != before.keys():
                held.clear()
                held.update(before)
        if warnings.filters != self.filters:
            warnings.filters[:] = self.filters  # type: ignore[index]
        numpy: Any = sys.modules.get("numpy")
        if self.errors is not None and numpy.geterr() != self.errors:
            numpy.seterr(**self.errors)


@dataclass
class Ambient:
    """What was in force in the thread when it was made."""

    hear_functions: Callable[[], None] = field(default_factory=as_functions_are_heard)
    grad: bool = field(default_factory=torch.is_grad_enabled)
    collects: bool = field(default_factory=gc.isenabled)
    dispatch: List[Any] = field(default_factory=DISPATCH_MODES.modes)
    function: List[Any] = field(default_factory=FUNCTION_MODES.modes)
    autocast: List[Tuple[Callable[..., Any], Tuple[Any, ...]]] = field(default_factory=_autocast_state)
    nesting: int = field(default_factory=_autocast_nesting)
    flags: List[Any] = field(default_factory=mode_flags)
    settings: Settings = field(default_factory=Settings)

    def set_aside(self) -> None:
        """Leave no dispatch mode in force, and of function modes only PyTorch's own, that of the default device."""
        DISPATCH_MODES.replace([])
        kept = [mode for mode in self.function if type(mode).__module__ == "torch.utils._device"]
        if len(kept) != len(self.function):
            FUNCTION_MODES.replace(kept)

    def restore(self) -> None:
        """Put everything back that is not as it was."""
        self.hear_functions()
        set_grad_enabled(self.grad)
        self.settings.restore()
        DISPATCH_MODES.replace(self.dispatch)
        FUNCTION_MODES.replace(self.function)
        if self.autocast[1][1][-1] or autocast_is_on() or _autocast_nesting() != self.nesting:
            for setter, arguments in self.autocast:
                setter(*arguments)
            _restore_nesting(self.nesting)
        if self.nesting or autocast_is_on():
            torch.clear_autocast_cache()  # or what the copy's weights were cast to stays until the context ends
        if not self.dispatch:
            restore_mode_flags(self.flags)
        if self.collects:
            gc.enable()


@contextmanager
def modes_aside() -> Iterator[None]:
    """Leave no mode in force while something is imported: what modules make of tensors then must have values."""
    dispatch, function = DISPATCH_MODES.modes(), FUNCTION_MODES.modes()
    try:
        DISPATCH_MODES.replace([])
        FUNCTION_MODES.replace([])
        yield
    finally:
        DISPATCH_MODES.replace(dispatch)
        FUNCTION_MODES.replace(function)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Spare a count of milliseconds the garbage collector, which would walk all of torch for a copy's many objects.

    The copy should be gone again by the end: then there is nothing to collect.
    """
    collects = gc.isenabled()
    try:
        try:
            gc.disable()
            yield
        finally:
            if collects:
                gc.enable()
    finally:
        if collects:
            gc.enable()


class Generators:
    """The generators of random numbers that the process draws from: Python's, numpy's, PyTorch's of each device.

    They are put back after every run. A run draws nothing from PyTorch's, so that these move only where code seeds
    them; where another thread has been at work meanwhile, and the model's code does not speak of seeding, it was that.
    """

    def __init__(self) -> None:
        self.others = _time_of_others()
        self.numpy: Any = getattr(sys.modules.get("numpy"), "random", None)
        self.python_state = random.getstate()
        self.numpy_state = self.numpy.get_state() if self.numpy else None
        self.torch_states = [(generator, _state_of(generator)) for generator in _default_generators()]

    def restore(self, of_seeds: bool) -> None:
        """Take back what the run has drawn, and what it has seeded; ``of_seeds``: its code speaks of that.

        Nothing here lets another thread in between a look at a generator and its being put back.
        """
        random.setstate(self.python_state)
        if self.numpy_state is not None:
            self.numpy.set_state(self.numpy_state)
        for generator, state in self.torch_states:
            if _state_of(generator) != state and (of_seeds or self._was_alone()):
                generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    def _was_alone(self) -> bool:
        return _time_of_others() - self.others < _A_MOMENT


_A_MOMENT = 2_000  # nanoseconds


def _state_of(generator: Any) -> bytes:
    state: bytes = generator.get_state().numpy().tobytes()
    return state


def _time_of_others() -> int:
    """Return the processor's time that this process has taken beside this thread, in nanoseconds."""
    return time.process_time_ns() - time.thread_time_ns()


def _default_generators() -> List[Any]:
    found = [torch.default_generator]
    for kind in ("cuda", "xpu"):
        device = getattr(torch, kind, None)
        if device is not None and getattr(device, "is_initialized", lambda: False)():
            found.extend(device.default_generators)
    if sys.platform == "darwin" and torch.backends.mps.is_available():
        found.append(torch.mps._get_default_mps_generator())
    return found
