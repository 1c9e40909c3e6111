"""Whose an exception is: the model's own or somebody's signal, or a lack of values that has shown in it."""

import dis
from pathlib import Path
from typing import Any

import torch

from .shape_tensor import NeedsValues

_OWN_CODE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_KERNEL_ERRORS = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError, AssertionError)


def _innermost(error: BaseException) -> Any:
    """Return the traceback's last step, which raised the exception; None for one that was never raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def is_of_a_kernel(error: BaseException) -> bool:
    """Say whether an exception comes from PyTorch or from here, and not from a signal's handler in between."""
    if not isinstance(error, _KERNEL_ERRORS):
        return False
    trace = _innermost(error)
    return trace is None or trace.tb_frame.f_code.co_filename.startswith(_OWN_CODE)


def is_for_lack_of_values(error: BaseException) -> bool:
    """Say whether a tensor without values may be to blame for an exception that no operator has raised.

    Python code of PyTorch that is handed one, or a function in C that is, may complain of it; what the model's own
    code raises by itself, or a signal's handler, has nothing to do with it.
    """
    if isinstance(error, NeedsValues) or "ShapeTensor" in str(error):
        return True
    if not isinstance(error, (RuntimeError, TypeError)) or (isinstance(error, TypeError) and "ensor" not in str(error)):
        return False
    trace = _innermost(error)
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    return code.co_filename.startswith(_OWN_CODE[1]) or not _raises(code, trace.tb_lasti)


def _raises(code: Any, offset: int) -> bool:
    """Say whether the instruction at an offset is a ``raise``."""
    return any(i.offset == offset and i.opname in ("RAISE_VARARGS", "RERAISE") for i in dis.get_instructions(code))
