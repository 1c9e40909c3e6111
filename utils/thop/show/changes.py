"""Changes of the process that last as long as a call, and are taken back whatever way it ends."""

from types import FunctionType, ModuleType
from typing import Any, Callable, Dict, List


class Changes:
    """What was changed, and how it is taken back: each way back is known before the change is made.

    ``take_back`` may be called twice: an interrupt that cuts the first call short finds the second.
    """

    def __init__(self) -> None:
        self._ways_back: List[Callable[[], None]] = []

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """Give an object an attribute, past its class's own ways of setting one."""
        had, before = name in vars(owner), vars(owner).get(name)

        def back() -> None:
            if vars(owner).get(name) is value:
                if had:
                    _set(owner, name, before)
                else:
                    _delete(owner, name)

        self._ways_back.append(back)
        _set(owner, name, value)

    def item(self, table: Dict[str, Any], name: str, value: Any) -> None:
        """Put something into a dict."""
        had, before = name in table, table.get(name)

        def back() -> None:
            if table.get(name) is value:
                if had:
                    table[name] = before
                else:
                    table.pop(name, None)

        self._ways_back.append(back)
        table[name] = value

    def code(self, function: FunctionType, code: Any) -> None:
        """Let a function do something else, by whatever name it is known."""
        before = function.__code__

        def back() -> None:
            function.__code__ = before

        self._ways_back.append(back)
        function.__code__ = code

    def take_back(self) -> None:
        """Take back all changes, the last first."""
        while self._ways_back:
            self._ways_back[-1]()
            self._ways_back.pop()


def _set(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, (type, ModuleType)):
        setattr(owner, name, value)
    else:
        vars(owner)[name] = value


def _delete(owner: Any, name: str) -> None:
    if isinstance(owner, (type, ModuleType)):
        delattr(owner, name)
    else:
        vars(owner).pop(name, None)


__all__ = ["Changes"]
