"""Make the environment of this repository, .venv, and run something in it.

    python tests/environment.py test [PYTEST ARGUMENTS]     all tests
    python tests/environment.py quick [PYTEST ARGUMENTS]    those that need no checkout
    python tests/environment.py compat [2.4 1.13 ...]       what depends on PyTorch's version, under several of them
    python tests/environment.py demo [CHECKOUT]             patch a YOLOv5, train it, show what it prints
    python tests/environment.py lint                        ruff and mypy
    python tests/environment.py bench [ARGUMENTS]           comparison with other profilers
    python tests/environment.py table                       the models' table of docs/figures.md
    python tests/environment.py pictures                    the pictures, and the comparison of docs/figures.md
    python tests/environment.py clock [--details]           how far predicted times are from published ones
    python tests/environment.py calibrate                   the same, and write the figures to devices.yaml
    python tests/environment.py clean                       remove .venv, .cache and the tools' caches

Needs Python 3.8 or newer with pip, nothing else. On Linux with Python 3.11 the packages are those pinned in
requirements-ci.txt, elsewhere the newest that requirements-dev.txt admits.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "requirements.sha256"
PIP = "pip==24.0"  # newer ones refuse the metadata of yolov5 5.0.10, which the tests download
PINNED_FOR = ("Linux", 3, 11)
OLDEST = (3, 8)
WORKERS = max(1, min(os.cpu_count() or 1, 4))  # each takes up to 2 GB of memory
COMMANDS: Dict[str, List[List[str]]] = {
    "test": [["-m", "pytest", "-n", str(WORKERS), "--dist", "worksteal"]],
    "quick": [["-m", "pytest", "-n", str(WORKERS), "--dist", "worksteal", "-m", "not slow"]],
    "compat": [["tests/compat.py"]],
    "demo": [["tests/demo.py"]],
    "lint": [["-m", "ruff", "check", "."], ["-m", "mypy"]],
    "bench": [["benchmarks/bench.py"]],
    "table": [["benchmarks/model_table.py"]],
    "pictures": [["benchmarks/pictures.py"]],
    "clock": [["benchmarks/clock.py"]],
    "calibrate": [["benchmarks/clock.py", "--calibrate"]],
}


class Failure(Exception):
    """Why there is no environment, in one line for the user."""


def say(text: str) -> None:
    """Print a line at once, in front of what a child process prints next."""
    print(text, flush=True)


def requirements() -> Path:
    """Return the pinned file where its pins are known to exist, else the ranges."""
    here = (platform.system(),) + tuple(sys.version_info[:2])
    return ROOT / ("requirements-ci.txt" if here == PINNED_FOR else "requirements-dev.txt")


def fingerprint() -> str:
    """Return a digest that changes whenever the environment has to be made anew."""
    digest = hashlib.sha256((sys.version + PIP + requirements().name).encode())
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-ci.txt"):
        digest.update((ROOT / name).read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def python() -> Path:
    """Return the interpreter of the environment."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_ready() -> bool:
    """Say whether the environment was finished with the present requirements and still runs."""
    if not STAMP.is_file() or STAMP.read_text() != fingerprint():
        return False
    try:
        return subprocess.call([str(python()), "-c", ""]) == 0
    except OSError:
        return False


def make_environment() -> None:
    """Make .venv and install everything; the stamp comes last, so that half an environment is made again."""
    started = time.perf_counter()
    source = requirements()
    say("[1/3] Making the environment {} with Python {}".format(VENV, platform.python_version()))
    make_venv()
    say("[2/3] Installing {}".format(PIP))
    pip_install([PIP], "pip itself")
    say("[3/3] Installing {} (6 GB on disk with CUDA, many minutes on a slow line)".format(source.name))
    pip_install(["-r", str(source)], source.name)
    repair_opencv()
    STAMP.write_text(fingerprint())
    say("Environment ready after {:.0f} s".format(time.perf_counter() - started))


def make_venv() -> None:
    """Make an empty .venv in place of whatever is there."""
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            name = "python{}.{}-venv".format(*sys.version_info[:2])
            raise Failure("this Python has no module {0}; on Debian and Ubuntu: apt install {1}".format(module, name))
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    if done.returncode:
        raise Failure("python -m venv failed, its message is above; is {} writable?".format(ROOT))


def pip_install(arguments: List[str], subject: str) -> None:
    """Run pip in the environment with its own progress on the screen."""
    command = [str(python()), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    if subprocess.call(command, cwd=str(ROOT)):
        raise Failure("pip could not install {}; its message is above".format(subject))


def repair_opencv() -> None:
    """Let the headless OpenCV win: the other build, a dependency of ultralytics, needs a desktop's libraries."""
    if subprocess.run([str(python()), "-c", "import cv2"], stderr=subprocess.DEVNULL).returncode == 0:
        return
    say("OpenCV does not load here; installing its headless build again")
    show = "from importlib.metadata import version; print(version('opencv-python-headless'))"
    version = subprocess.check_output([str(python()), "-c", show], universal_newlines=True).strip()
    headless = "opencv-python-headless=={}".format(version)
    pip_install(["--force-reinstall", "--no-deps", headless], headless)


def clean() -> None:
    """Remove what the other commands made."""
    for name in (".venv", ".cache", ".pytest_cache", ".mypy_cache", ".ruff_cache"):
        if (ROOT / name).exists():
            say("removing {}".format(ROOT / name))
            shutil.rmtree(str(ROOT / name))


def run(command: str, arguments: List[str]) -> int:
    """Run a command in the environment; return the first exit status that is not 0."""
    environment = dict(os.environ, PYTHONNOUSERSITE="1", PYTHONUNBUFFERED="1")
    if command in ("test", "quick"):  # or every worker takes all processors for each product of matrices
        environment.setdefault("OMP_NUM_THREADS", str((os.cpu_count() or 1) // WORKERS))
    for name in ("PYTHONHOME", "PYTHONPATH"):
        environment.pop(name, None)
    statuses = [
        subprocess.call([str(python()), *step, *arguments], cwd=str(ROOT), env=environment)
        for step in COMMANDS[command]
    ]
    return next((status for status in statuses if status), 0)


def main(argv: List[str]) -> int:
    """Run the command line; return the exit status."""
    command, arguments = (argv or ["--help"])[0], argv[1:]
    if command == "clean":
        clean()
        return 0
    if command not in COMMANDS:
        say(str(__doc__).strip())
        return 0 if command in ("-h", "--help") else 2
    if sys.version_info[:2] < OLDEST:
        raise Failure("Python 3.8 or newer is needed, this is {}".format(platform.python_version()))
    if command == "demo":
        arguments = [os.path.abspath(path) for path in arguments]
    if not is_ready():
        make_environment()
    return run(command, arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        print("environment.py: {}".format(failure), file=sys.stderr)
    except OSError as error:
        print("environment.py: {}: {}".format(error.filename, error.strerror or error), file=sys.stderr)
    except KeyboardInterrupt:
        print("environment.py: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(1)
