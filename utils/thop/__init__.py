"""Memory access beside GFLOPs: counts what a PyTorch model computes, reads and writes, and what that means on a device.

Part of YOLOv5 memory access, under the MIT licence. It needs torch and the standard library, nothing else.
"""

import importlib as _importlib
import typing as _typing

from . import answer as _answer
from . import namesake as _namesake

__version__ = "2.0.0"
__all__ = [
    "add_hooks", "advise", "calibrate", "choose", "clever_format", "compare", "deployed", "dfs_count", "predict",
    "profile", "register_hooks", "remove_hooks", "traffic", "training",
]  # fmt: skip
_LATER = {
    "advise": "deploy", "calibrate": "deploy", "choose": "command", "compare": "command", "deployed": "deploy",
    "predict": "deploy", "training": "deploy",
}  # fmt: skip
"""What is loaded only where it is asked for, and from where: a training run prints its line without."""

_namesake.require_torch()
if not _namesake.give_way(__name__):
    from .count.layer_rules import add_hooks, register_hooks, remove_hooks
    from .profile import dfs_count, profile
    from .traffic import traffic
    from .units import clever_format

if _typing.TYPE_CHECKING:
    from .command import choose, compare
    from .deploy import advise, calibrate, deployed, predict, training


def _sheet_of(found: _typing.Any) -> _typing.Any:
    return _importlib.import_module(".show.results", __name__).sheet_of(found)


_answer.show_by(_sheet_of)


def __getattr__(name: str) -> _typing.Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_importlib.import_module(f".{_LATER[name]}", __name__), name)


def __dir__() -> _typing.List[str]:
    return [*__all__, "__version__"]
