"""A Python that has imported what YOLOv5 imports, and forks for each program that it is told to run.

Every program has a process of its own, with its own modules, folder, environment and outputs; what it does not do once
more is to import PyTorch, pandas, OpenCV and others, which takes seconds. Where there is no fork it is started anew.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import types
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, Sequence

PACKAGES = (
    "torch", "torchvision", "torch.utils.data", "torch.utils.tensorboard", "torch.distributed", "numpy", "pandas",
    "cv2", "matplotlib.pyplot", "seaborn", "scipy.signal", "scipy.ndimage", "scipy.stats", "PIL.Image", "PIL.ImageFont",
    "yaml", "requests", "tqdm.auto", "psutil", "thop", "pkg_resources", "IPython", "huggingface_hub", "fire",
)  # fmt: skip


def run(
    arguments: Sequence[str], cwd: Path, env: dict[str, str] | None = None, both: bool = True, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Do what `subprocess.run([sys.executable, *arguments])` does: a script, or what follows -c or -m.

    both: whether what goes to stderr is among stdout; fresh: without the server.
    """
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "text": True, "encoding": "utf-8", "errors": "replace"}
    if fresh or not hasattr(os, "fork"):
        options["stderr"] = subprocess.STDOUT if both else subprocess.PIPE
        return subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, stdout=subprocess.PIPE, **options)
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as scratch:
        out, err = (os.path.join(scratch, name) for name in ("out", "out" if both else "err"))
        asked = list(arguments), str(cwd), dict(os.environ if env is None else env), out, err
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        said = [Path(file).read_text(encoding="utf-8", errors="replace") for file in (out, err)]
    return subprocess.CompletedProcess(asked[0], status, said[0], None if both else said[1])


@lru_cache(maxsize=None)
def _server() -> subprocess.Popen[str]:
    """Start the server, which ends as soon as nobody can write to it any more."""
    command = [sys.executable, "-W", "ignore", __file__]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen(command, env={**env, "MPLBACKEND": "Agg"}, text=True, **pipes)
    atexit.register(server.communicate)
    return server


def _serve() -> None:
    own = os.dup(1)  # programs, and packages that print when they are imported, have another stdout
    os.dup2(2, 1)
    for name in PACKAGES:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the collector goes through all of it again in each program
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.close(own)
            _become(*json.loads(line))
        _, status = os.waitpid(child, 0)
        ended = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        os.write(own, f"{ended}\n".encode())


def _become(arguments: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """Run a program in this process, and end it."""
    for number, name in ((0, os.devnull), (1, out), (2, err)):
        mode = os.O_RDONLY if not number else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        file = os.open(name, mode, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    status: Any = 0
    try:
        _run(arguments, env)
    except SystemExit as error:
        status = error.code
        if status is not None and not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def _run(arguments: list[str], env: dict[str, str]) -> None:
    warnings.resetwarnings()
    if env.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    if env.get("PYTHONUNBUFFERED"):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    while arguments[0] in ("-W", "-u"):
        if arguments.pop(0) == "-W":
            warnings.simplefilter(arguments.pop(0))  # type: ignore[arg-type]
    sys.path[1:1] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    first, *rest = arguments
    if first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif first == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *rest], os.path.dirname(os.path.abspath(first))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    _serve()
