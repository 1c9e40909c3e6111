"""Standing beside a checkout's own function while it runs: thop answers with our count, what is printed is held back.

The function itself runs, with its own namespace and decorators, in whatever module it is. For the time of the call,
and for this thread alone, three things of the process are led past here: ``thop.profile``, by whatever name it has been
imported; standard output and error; and loggers. Another thread meets what was there before. A copy of the model that
the function hands to thop and to nobody else is not made: what answers writes to nothing.
"""

import contextlib
import copy
import importlib
import inspect
import linecache
import logging
import os
import re
import sys
import threading
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import torch
from torch import nn

# ---- changes of the process that last as long as a call, and are taken back whatever way it ends ----


class Changes:
    """What was changed, and how it is taken back: each way back is known before the change is made.

    ``take_back`` may be called twice: an interrupt that cuts the first call short finds the second.
    """

    def __init__(self) -> None:
        self._ways_back: List[Callable[[], Any]] = []

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """Give a class or an object an attribute, past an object's class's own ways of setting one."""
        if isinstance(owner, type):
            self._put(vars(owner), name, value, partial(setattr, owner), partial(delattr, owner))
        else:
            self.item(vars(owner), name, value)

    def item(self, table: Dict[str, Any], name: str, value: Any) -> None:
        """Put something into a dict."""
        self._put(table, name, value, table.__setitem__, table.__delitem__)

    def _put(self, table: Any, name: str, value: Any, put: Callable[..., Any], take: Callable[..., Any]) -> None:
        had, before = name in table, table.get(name)

        def back() -> None:
            if name in table and table[name] is value:
                if had:
                    put(name, before)
                else:
                    take(name)

        self._ways_back.append(back)
        put(name, value)

    def code(self, function: FunctionType, code: Any) -> None:
        """Let a function do something else, by whatever name it is known."""
        before = function.__code__

        def back() -> None:
            function.__code__ = before

        self._ways_back.append(back)
        function.__code__ = code

    def keep_grad_mode(self) -> None:
        """Put it back at the end: an interrupt may leave PyTorch's own ``no_grad``, as in a deep copy, in force."""
        self._ways_back.append(partial(torch.set_grad_enabled, torch.is_grad_enabled()))

    def take_back(self) -> None:
        """Take back all changes, the last first."""
        while self._ways_back:
            self._ways_back[-1]()
            self._ways_back.pop()


@contextlib.contextmanager
def changed() -> Iterator[Changes]:
    """Hand out changes that are taken back at the end."""
    changes = Changes()
    try:
        yield changes
    finally:
        changes.take_back()


# ---- the call ----

Thop = Callable[..., Any]
Answer = Callable[[Optional[Thop], Tuple[Any, ...], Dict[str, Any]], Any]
"""Answers a call of ``thop.profile``: gets the real function, if there is one, and the arguments."""


@dataclass
class Text:
    """One text that was to be printed, what prints it, and what is to be printed instead, if anything."""

    text: str
    emit: Callable[[str], Any]
    new: Optional[str] = None


class _Thread(threading.local):
    listener: Optional["Listener"] = None


_THREAD = _Thread()
_ONE_AT_A_TIME = threading.RLock()


class Listener:
    """What is heard of one call, in order."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.texts: List[Text] = []
        self.real_thop: Optional[Thop] = None

    def hear(self, text: str, emit: Callable[[str], Any]) -> None:
        """Hold a text back."""
        self.texts.append(Text(text, emit))

    def written(self, text: str, emit: Callable[[str], Any]) -> None:
        """Hold back what is written piece by piece, as ``print`` does, as one text."""
        last = self.texts[-1] if self.texts else None
        if last is not None and last.emit == emit:
            last.text += text
        else:
            self.hear(text, emit)

    def emit(self) -> None:
        """Print all that was held back, once."""
        texts, self.texts = self.texts, []
        for part in texts:
            part.emit(part.text if part.new is None else part.new)


@contextlib.contextmanager
def beside(function: Callable[..., Any], model: Any, answer: Answer, aloud: bool = False) -> Iterator[Listener]:
    """Listen to a function that is called inside; nothing is printed before ``Listener.emit``.

    aloud: what it tells a logger that nobody has set up is printed.
    """
    listener, namespaces, changes = Listener(answer), _namespaces(function), Changes()
    with _ONE_AT_A_TIME:
        try:
            try:
                changes.keep_grad_mode()
                changes.item(vars(_THREAD), "listener", listener)
                _lead_thop_here(listener, namespaces, changes)
                for space in namespaces:
                    if space.get("deepcopy") is copy.deepcopy:
                        changes.item(space, "deepcopy", partial(_copied, model))
                mute = [logger for logger in loggers_of(function) if is_mute(logger)] if aloud else []
                _lead_loggers_here(namespaces, function, changes, mute)
                for name in ("stdout", "stderr"):
                    if getattr(sys, name) is not None:  # as in a program without a console
                        changes.attribute(sys, name, _Stream(getattr(sys, name)))
                yield listener
            finally:
                changes.take_back()
        finally:  # an interrupt may have cut the first one short
            changes.take_back()


def _namespaces(function: Any) -> List[Dict[str, Any]]:
    """Return the globals of a function, and of what its decorators have wrapped."""
    found: Dict[int, Dict[str, Any]] = {}
    for layer in (function, inspect.unwrap(function)):
        space = getattr(layer, "__globals__", None)
        if isinstance(space, dict):
            found[id(space)] = space
    return list(found.values())


# ---- thop ----

_ORIGINALS: Dict[int, FunctionType] = {}
"""What thop's function did before its code was replaced, by the function's identity."""


def answer_thop(args: Any, kwargs: Dict[str, Any]) -> Any:
    """Answer a call of ``thop.profile``; the real one does in a thread that nobody listens to."""
    listener = _THREAD.listener
    if listener is None:
        original = next(iter(_ORIGINALS.values()), None)
        if original is None:
            raise ImportError("thop is not installed")
        return original(*args, **kwargs)
    return listener.answer(listener.real_thop, args, kwargs)


def _code_that_asks_here() -> Any:
    """Compile what takes the place of a function's code; it finds its way back by this module's name."""
    space: Dict[str, Any] = {}
    here = f"__import__('sys').modules[{__name__!r}]"
    exec(f"def profile(*args, **kwargs):\n    return {here}.answer_thop(args, kwargs)", space)
    return space["profile"].__code__


def _lead_thop_here(listener: Listener, namespaces: List[Dict[str, Any]], changes: Changes) -> None:
    """Let ``thop.profile`` answer by the listener, also where thop is not installed."""
    function = getattr(_installed_thop(), "profile", None)
    if not isinstance(function, FunctionType) or function.__closure__:
        _make_thop_up(namespaces, changes)
        return
    outer = _ORIGINALS.get(id(function))
    if outer is not None:  # a call inside of a call
        listener.real_thop = partial(_on_a_copy, outer)
        return
    original = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    original.__kwdefaults__ = function.__kwdefaults__
    listener.real_thop = partial(_on_a_copy, original)
    changes.item(_ORIGINALS, id(function), original)  # type: ignore[arg-type]
    changes.code(function, _code_that_asks_here())


_FOR_THOP = re.compile(r"\bprofile\(deepcopy\(")


def _copied(model: Any, value: Any, memo: Any = None) -> Any:
    """Copy a value, but for the model where the line that runs reads ``profile(deepcopy(``: thop alone gets it."""
    frame = sys._getframe(1)
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    if value is model and _THREAD.listener is not None and _FOR_THOP.search(line):
        return model
    return copy.deepcopy(value, memo)


def _on_a_copy(original: Thop, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Let the real thop, which writes to what it counts, count a copy."""
    return original(copy.deepcopy(model), *args, **kwargs)


def _installed_thop() -> Optional[ModuleType]:
    """Import thop, as the function would; None where there is none but this package under that name."""
    try:
        module = importlib.import_module("thop")
    except Exception:
        return None
    ours = sys.modules[__name__[: -len(".show.beside")]]
    return None if getattr(module, "__file__", None) == ours.__file__ else module


def _make_thop_up(namespaces: List[Dict[str, Any]], changes: Changes) -> None:
    """Put a module in thop's place, in ``import`` and under the names that stand for its absence."""
    stand_in: Any = ModuleType("thop")
    stand_in.profile = lambda *args, **kwargs: answer_thop(args, kwargs)
    changes.item(sys.modules, "thop", stand_in)
    for space in namespaces:
        if "thop" in space and not callable(getattr(space["thop"], "profile", None)):
            changes.item(space, "thop", stand_in)


# ---- what is printed ----


class _Stream:
    """Standard output or standard error, to which the listening thread writes nothing yet."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def write(self, text: str) -> int:
        """Write, or hold back."""
        listener = _THREAD.listener
        if listener is None:
            written: int = self._real.write(text)
            return written
        listener.written(text, self._real.write)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write, or hold back, each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def is_mute(logger: Any) -> bool:
    """Say whether a logger drops what it is told for the only reason that nobody has set logging up."""
    if not isinstance(logger, logging.Logger) or logging.root.manager.disable >= logging.INFO:
        return False
    if os.environ.get("RANK", "-1") not in ("-1", "0"):  # of several processes the first one speaks
        return False
    named: Optional[logging.Logger] = logger
    while named is not None and named is not logging.root:
        if named.level:
            return named.level <= logging.INFO and not logger.hasHandlers()
        named = named.parent
    return not (logger.isEnabledFor(logging.INFO) and logger.hasHandlers())


def loggers_of(function: Any) -> List[Any]:
    """Return the loggers among the globals of a function, and of what its decorators have wrapped."""
    return [space[name] for space in _namespaces(function) for name in ("LOGGER", "logger") if name in space]


def _lead_loggers_here(
    namespaces: List[Dict[str, Any]], function: Callable[..., Any], changes: Changes, mute: List[Any]
) -> None:
    """Hold back the records of all loggers, and what goes to objects that are used as loggers are.

    mute: loggers that would drop theirs; these are printed.
    """
    changes.attribute(logging.Logger, "handle", _handler(logging.Logger.handle, mute))
    for logger in mute:
        changes.attribute(logger, "isEnabledFor", lambda level: level >= logging.INFO)
    names = getattr(getattr(inspect.unwrap(function), "__code__", None), "co_names", ())
    for space in namespaces:
        for name in names:
            if _logs_by_itself(space.get(name)):
                changes.item(space, name, _Recording(space[name]))


def _handler(handle: Callable[..., Any], mute: List[Any]) -> Callable[..., Any]:
    def hold_back(logger: logging.Logger, record: logging.LogRecord) -> None:
        listener = _THREAD.listener
        if listener is None:
            handle(logger, record)
            return

        def emit(text: str) -> None:
            if text != message:
                record.msg, record.args = text, ()
            handle(logger, record)

        message = record.getMessage()
        listener.hear(message, print if any(logger is each for each in mute) else emit)

    return hold_back


_STANDARD = (logging.Logger, logging.LoggerAdapter)
_METHODS = ("debug", "info", "warning", "error", "success")


def _logs_by_itself(value: Any) -> bool:
    """Say whether an object logs in a way that does not come to ``logging.Logger.handle`` first."""
    if isinstance(value, _STANDARD):
        return any(name in vars(value) for name in _METHODS)
    return callable(getattr(value, "info", None)) and not isinstance(value, (ModuleType, nn.Module))


class _Recording:
    """An object that logs, whose messages are held back; everything else is its own."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        method, listener = getattr(self._logger, name), _THREAD.listener
        if listener is None or name not in _METHODS or not self._is_heard(name):
            return method

        def record(*args: Any, **kwargs: Any) -> None:
            text = _formatted(args)
            if text is None:
                listener.hear("", lambda _: method(*args, **kwargs))
            else:
                listener.hear(text, lambda new: method(*(args if new == text else (new,)), **kwargs))

        return record

    def _is_heard(self, name: str) -> bool:
        level = getattr(logging, name.upper(), logging.INFO)
        return not isinstance(self._logger, _STANDARD) or self._logger.isEnabledFor(level)


def _formatted(args: Any) -> Optional[str]:
    """Put a message together as ``logging`` does; None for what is no message."""
    try:
        return str(args[0]) % args[1:] if len(args) > 1 else str(args[0])
    except (IndexError, TypeError, ValueError):
        return None
