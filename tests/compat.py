"""Run what depends on PyTorch's version under several of them, each in an environment of its own.

    python tests/compat.py [2.4 1.13.1 ...]     the versions below, or some of them

Tests of `tests/run` and `tests/count`, and the summary line. An environment stays in .cache/compat, for the next time.
It takes the Pythons that the versions are for; what is not on this machine is said and left out.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from environment import ROOT, Failure, say

FOLDER = ROOT / ".cache" / "compat"
TESTS = ["tests/run", "tests/count", "tests/show/test_torch_utils.py"]


class Version(NamedTuple):
    """A PyTorch, the torchvision that goes with it, and a Python that both are for."""

    torch: str
    torchvision: str
    python: str

    @property
    def interpreter(self) -> Path:
        """That of its environment."""
        return FOLDER / self.torch / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


VERSIONS = (
    Version("1.13.1", "0.14.1", "3.8"),
    Version("2.0.1", "0.15.2", "3.8"),
    Version("2.4.1", "0.19.1", "3.11"),
    Version("2.14.1", "0.29.1", "3.11"),
)


def python_of(version: str) -> Optional[str]:
    """Find a Python of a version on this machine: one that starts, which a shim of pyenv's need not."""
    if version == "{}.{}".format(*sys.version_info[:2]):
        return sys.executable
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    found = [shutil.which("python" + version), *map(str, pyenv)]
    works = (one for one in found if one and not subprocess.call([one, "-c", ""], stderr=subprocess.DEVNULL))
    return next(works, None)


def make(version: Version) -> str:
    """Make the environment of a version if there is none; return why that can't be done, or nothing."""
    done = version.interpreter.parent.parent / "done"
    if done.is_file():
        return ""
    python = python_of(version.python)
    if python is None:
        return f"there is no Python {version.python} here"
    say(f"making an environment for torch {version.torch} with Python {version.python}")
    pins = ["torch==" + version.torch, "torchvision==" + version.torchvision]
    steps: List[List[str]] = [
        [python, "-m", "venv", "--clear", str(version.interpreter.parent.parent)],
        [str(version.interpreter), "-m", "pip", "install", "--disable-pip-version-check", "pip==24.0"],
        [str(version.interpreter), "-m", "pip", "install", *pins, "-r", str(ROOT / "requirements-dev.txt")],
    ]
    for step in steps:
        if subprocess.call(step, cwd=str(ROOT)):
            return "{} failed".format(" ".join(step[1:4]))
    done.write_text("")
    return ""


def run(version: Version) -> Tuple[bool, str]:
    """Run the tests under a version; return whether they pass, and the line that pytest closes with."""
    environment = dict(os.environ, PYTHONNOUSERSITE="1", OMP_NUM_THREADS="1")
    options = ["-q", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider"]
    command = [str(version.interpreter), "-m", "pytest", *options, *TESTS]
    done = subprocess.run(
        command,
        cwd=str(ROOT),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = done.stdout.strip().splitlines() or ["pytest printed nothing"]
    say("\n".join(line for line in lines if line.startswith(("FAILED", "ERROR"))))
    return not done.returncode, lines[-1]


def versions(wanted: List[str]) -> List[Version]:
    """Return the versions that are asked for, all of them without a word: 2.4 is 2.4.1."""
    unknown = [name for name in wanted if not any(is_of(name, version) for version in VERSIONS)]
    if unknown:
        known = ", ".join(version.torch for version in VERSIONS)
        raise Failure(f"torch {unknown[0]} is not one of those that are tested: {known}")
    return [version for version in VERSIONS if not wanted or any(is_of(name, version) for name in wanted)]


def is_of(name: str, version: Version) -> bool:
    """Say whether a version is called by its first numbers."""
    return (version.torch + ".").startswith(name + ".")


def main(wanted: List[str]) -> int:
    """Run under each version, and print a line for each."""
    all_pass = True
    for version in versions(wanted):
        missing = make(version)
        passes, line = (not missing.endswith("failed"), missing) if missing else run(version)
        say(f"torch {version.torch}: {line}")
        all_pass = all_pass and passes
    return int(not all_pass)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        sys.exit(f"compat.py: {failure}")
