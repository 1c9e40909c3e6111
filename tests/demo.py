"""Patch a YOLOv5, train it for an epoch, and show the summary line and the table of layers that it prints now.

    python tests/demo.py [CHECKOUT]     (python tests/environment.py demo makes the environment for it first)

CHECKOUT is a clone of YOLOv5 or an installed yolov5 package. It is patched, and stays so. Without it a release is
downloaded and a copy of it patched. All else goes into .cache/demo.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from releases import (
    CACHE,
    LATEST,
    ROOT,
    ReleaseError,
    copy_release,
    make_data_set,
    train_options,
    yolo_environment,
)  # fmt: skip

FOLDER = CACHE / "demo"
APPLY = ROOT / "patches" / "apply.py"
NEEDED = "train.py", "utils/torch_utils.py", "models/yolov5n.yaml", "models/yolov5s.yaml"
SHOW = """
import contextlib, io, logging, sys
from {package}models.yolo import Model
from {package}utils.torch_utils import model_info
logging.disable(logging.CRITICAL)
with contextlib.redirect_stdout(io.StringIO()):
    model = Model(sys.argv[1])
logging.disable(logging.NOTSET)
model_info(model, verbose=True)
"""


class Failure(Exception):
    """What went wrong, in one line for the user, and the exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Yolo:
    """A YOLOv5 and how it is called: `python train.py` in a clone, `python -m yolov5.train` for the package."""

    folder: Path
    package: str  # "" or "yolov5."

    @property
    def cwd(self) -> Path:
        return self.folder.parent if self.package else self.folder

    @property
    def train(self) -> list[str]:
        return ["-m", f"{self.package}train"] if self.package else ["train.py"]

    def model(self, name: str) -> str:
        return str(self.folder / "models" / name)


def find(path: Path) -> Yolo:
    """Look at the path that the user named."""
    missing = [name for name in NEEDED if not (path / name).is_file()]
    if not path.is_dir():
        raise Failure(f"no such folder: {path}", status=2)
    if missing:
        raise Failure(f"{path} is no YOLOv5 with models/yolov5n.yaml: it has no {missing[0]}", status=2)
    source = (path / "train.py").read_text(encoding="utf-8", errors="replace")
    if not re.search(r"^(from|import) yolov5\b", source, re.MULTILINE):
        return Yolo(path, "")
    if path.name != "yolov5":
        raise Failure(f"{path} is the yolov5 package; its folder has to be named yolov5", status=2)
    return Yolo(path, "yolov5.")


def step(number: int, text: str) -> None:
    """Say what comes next, at once: the child processes write to the same screen."""
    print(f"\n[{number}/4] {text}", flush=True)


def run(arguments: Sequence[str], cwd: Path, purpose: str) -> None:
    """Run Python with its output on the screen."""
    environment = yolo_environment(FOLDER / "settings")
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise Failure(f"{purpose} failed with exit status {done.returncode}; its message is above")


def get(checkout: Path | None) -> Yolo:
    """Return the user's YOLOv5, or a fresh copy of a release."""
    if checkout is not None:
        step(1, f"Using the YOLOv5 in {checkout}")
        return find(checkout)
    step(1, f"Getting YOLOv5 {LATEST}")
    copy = FOLDER / LATEST
    shutil.rmtree(copy, ignore_errors=True)
    return find(copy_release(LATEST, copy) / "yolov5")


def train(yolo: Yolo) -> None:
    """Train the smallest model for an epoch through the real train.py."""
    data = make_data_set(FOLDER / "data")
    runs = FOLDER / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    options = [*train_options(data, yolo.folder / "train.py"), "--cfg", yolo.model("yolov5n.yaml")]
    options += ["--project", str(runs), "--name", "train"]
    run([*yolo.train, *options], yolo.cwd, "training")


def demonstrate(checkout: Path | None) -> None:
    """Do all steps; the summary line and the table come last."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    yolo = get(checkout)
    step(2, "Patching it")
    run([str(APPLY), str(yolo.folder)], ROOT, "patching")
    if checkout is not None:
        print(f'It stays patched until: python {APPLY.relative_to(ROOT)} "{yolo.folder}" --revert', flush=True)
    step(3, "Training YOLOv5n for one epoch on a data set of four images")
    train(yolo)
    step(4, "model_info(model, verbose=True) of YOLOv5s at 640 x 640")
    run(["-c", SHOW.format(package=yolo.package), yolo.model("yolov5s.yaml")], yolo.cwd, "model_info")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="demo.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", metavar="CHECKOUT", nargs="?", type=Path, help="a clone of YOLOv5")
    checkout = parser.parse_args(argv).checkout
    try:
        demonstrate(checkout.resolve() if checkout else None)
    except (Failure, ReleaseError) as failure:
        print(f"demo.py: {failure}", file=sys.stderr)
        return getattr(failure, "status", 1)
    except OSError as error:
        print(f"demo.py: {error.filename}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo.py: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
