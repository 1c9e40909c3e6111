"""Memory access beside GFLOPs: counts what a PyTorch model computes, reads and writes.

Part of YOLOv5 memory access, under the MIT licence. It needs torch and the standard library, nothing else.
"""

from .namesake import give_way, require_torch

__version__ = "1.0.0"
__all__ = ["add_hooks", "clever_format", "dfs_count", "profile", "register_hooks", "remove_hooks", "traffic"]

require_torch()
if not give_way(__name__):
    from .by_hand import add_hooks, remove_hooks
    from .hooks import register_hooks
    from .profile import dfs_count, profile
    from .traffic import traffic
    from .units import clever_format
