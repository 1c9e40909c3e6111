"""Memory access beside GFLOPs: counts what a PyTorch model computes, reads and writes, and what that means on a device.

Part of YOLOv5 memory access, under the MIT licence. It needs torch and the standard library, nothing else.
"""

from typing import TYPE_CHECKING, Any, List

from .namesake import give_way, require_torch

__version__ = "2.0.0"
__all__ = [
    "add_hooks", "calibrate", "clever_format", "deployed", "dfs_count", "predict", "profile", "register_hooks",
    "remove_hooks", "traffic", "training",
]  # fmt: skip
_OF_DEVICES = ("calibrate", "deployed", "predict", "training")

require_torch()
if not give_way(__name__):
    from .by_hand import add_hooks, remove_hooks
    from .hooks import register_hooks
    from .profile import dfs_count, profile
    from .traffic import traffic
    from .units import clever_format

if TYPE_CHECKING:
    from .deploy import calibrate, deployed, predict, training


def __getattr__(name: str) -> Any:
    """Load what devices need only where it is asked for: a training run prints its line without."""
    if name not in _OF_DEVICES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import deploy

    return getattr(deploy, name)


def __dir__() -> List[str]:
    return sorted({*globals(), *_OF_DEVICES})
