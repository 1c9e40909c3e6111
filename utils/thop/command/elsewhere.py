"""A process of its own for a model of another checkout: classes of two have the same names, and a process loads one."""

import io
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, TypeVar

from .checkout import ModelError, use

T = TypeVar("T")
_PACKAGE = __name__[: -len(".command.elsewhere")]
_FOLDER = Path(__file__).resolve().parents[1]
_THERE = "utils.thop"  # this package's name in the other process, where no other has it
_CODE = f"""
import importlib, sys, types
sys.modules["utils"] = types.ModuleType("utils")
sys.modules["utils"].__path__ = [sys.argv[1]]
importlib.import_module("{_THERE}.command.elsewhere").answer(*sys.argv[2:])
"""


class _Unpickler(pickle.Unpickler):
    """Finds this package's classes by the name that it has in this process."""

    def __init__(self, data: bytes, package: str) -> None:
        super().__init__(io.BytesIO(data))
        self.package = package

    def find_class(self, module: str, name: str) -> Any:
        if module == self.package or module.startswith(f"{self.package}."):
            module = _PACKAGE + module[len(self.package) :]
        return super().find_class(module, name)


def in_checkout(root: Path, function: Callable[..., T], *arguments: Any) -> T:
    """Call one of this package's functions in a new process that uses the checkout in ``root``; return its result.

    Raises ModelError where the checkout can't be used, or the process ends.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        command = [sys.executable, "-c", _CODE, str(_FOLDER.parent), str(root), _PACKAGE, str(result)]
        done = subprocess.run(command, input=pickle.dumps((function, arguments)), capture_output=True)
        if result.is_file():
            value, error = _Unpickler(result.read_bytes(), _THERE).load()
            if error:
                raise ModelError(error)
            return value  # type: ignore[no-any-return]
    said = done.stderr.decode(errors="replace").strip().splitlines()
    raise ModelError(f"the process that uses {root} has ended ({said[-1] if said else f'status {done.returncode}'})")


def answer(root: str, package: str, result: str) -> None:
    """Do, in the new process, what comes in by stdin; leave what comes of it in a file."""
    function, arguments = _Unpickler(sys.stdin.buffer.read(), package).load()
    value, error = None, ""
    try:
        use(Path(root))
        value = function(*arguments)
    except ModelError as reason:
        error = str(reason)
    Path(result).write_bytes(pickle.dumps((value, error)))


__all__ = ["answer", "in_checkout"]
