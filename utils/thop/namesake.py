"""The package thop that this one is no part of: where a checkout's folder ``utils`` is itself on the import path, both
are called ``thop``, and the name belongs to the other one.
"""

import importlib.machinery
import importlib.util
import os
import re
import sys

OLDEST_TORCH = (1, 13)


def require_torch() -> None:
    """Raise ImportError where torch is missing or too old."""
    import torch

    found = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if found < OLDEST_TORCH:
        raise ImportError(f"torch {'.'.join(map(str, OLDEST_TORCH))} or newer is needed, this is {torch.__version__}")


def give_way(name: str) -> bool:
    """Put the installed thop in this package's place if this has been imported as ``thop``; say whether it was."""
    if name != "thop":
        return False
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    elsewhere = [path for path in sys.path if not _is_same(path or os.getcwd(), here)]
    spec = importlib.machinery.PathFinder.find_spec(name, elsewhere)
    if spec is None or spec.loader is None or spec.origin is None:
        return False
    for module in [module for module in sys.modules if module.startswith("thop.")]:
        del sys.modules[module]
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return True


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
