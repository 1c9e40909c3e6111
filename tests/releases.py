"""YOLOv5 releases and what running one takes without a network: a font, settings, a small data set."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Iterator, Sequence

import warm

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
LATEST = "7.0.14"
VERSIONS = ("4.0.14", "5.0.10", "6.0.7", "6.1.9", "6.2.3", LATEST)
SIZES = "nsmlx"
HUB = (
    "yolov3", "yolov3-spp", "yolov3-tiny", "yolov5-bifpn", "yolov5-fpn", "yolov5-p2", "yolov5-p34", "yolov5-p6",
    "yolov5-p7", "yolov5-panet", "yolov5l6", "yolov5m6", "yolov5n6", "yolov5s-LeakyReLU", "yolov5s-ghost",
    "yolov5s-transformer", "yolov5s6", "yolov5x6",
)  # fmt: skip
ALL_CFGS = (
    *(f"yolov5{size}.yaml" for size in SIZES),
    *(f"hub/{name}.yaml" for name in HUB),
    *(f"segment/yolov5{size}-seg.yaml" for size in SIZES),
)


class ReleaseError(RuntimeError):
    """Why a release can't be had, in one line."""


def release(version: str) -> Path:
    """Return the folder that holds the release's `yolov5/`; shared by all tests, so nobody may write into it."""
    folder = CACHE / "releases" / version
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            unpacked = _download(version, Path(scratch))
            try:
                unpacked.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
    return folder


def _download(version: str, scratch: Path) -> Path:
    """Fetch the release's wheel into `scratch` and unpack it there."""
    requirement = f"yolov5=={version}"
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--dest", str(scratch)]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reasons = [line for line in done.stdout.splitlines() if line.startswith("ERROR")] or ["no wheel came"]
        raise ReleaseError(f"pip could not download {requirement}: {reasons[-1]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(scratch / "unpacked")
    return scratch / "unpacked"


def copy_release(version: str, destination: Path) -> Path:
    """Copy a release to `destination`, which must not exist; return `destination`, the folder with `yolov5/`."""
    shutil.copytree(release(version), destination, ignore=shutil.ignore_patterns("__pycache__"))
    return destination


def patch(folder: Path) -> str:
    """Apply the patch to a checkout or to a release's `yolov5` folder; return what apply.py said."""
    return run_python([str(ROOT / "patches" / "apply.py"), str(folder)], cwd=ROOT).stdout.strip()


def yolo_settings(folder: Path) -> dict[str, str]:
    """Return the environment variables that keep YOLOv5 off the network; its font and settings go into `folder`."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    sans = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        if not (folder / name).is_file():
            shutil.copy(sans, folder / name)
    return {
        "YOLOV5_CONFIG_DIR": str(folder),
        "YOLO_CONFIG_DIR": str(folder),
        "YOLOv5_AUTOINSTALL": "false",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
        "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "1",  # a release looks for a requirements.txt that it does not ship
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "MPLBACKEND": "Agg",
        "GIT_TERMINAL_PROMPT": "0",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",  # torch >= 2.6 would not load YOLOv5's own checkpoints
    }


def yolo_environment(folder: Path) -> dict[str, str]:
    """Return the environment to run YOLOv5 in: without PYTHONPATH, so that it sees its own `utils` and not ours."""
    environment = {**os.environ, **yolo_settings(folder), "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH"):
        environment.pop(name, None)
    return environment


def make_data_set(folder: Path) -> Path:
    """Make four images for training and two for validation, of one class; return the path of data.yaml."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            pixels[19:45, 19:45] = 255
            Image.fromarray(pixels).save(folder / "images" / split / f"{index}.png")
            (folder / "labels" / split / f"{index}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    yaml = folder / "data.yaml"
    lines = f"path: '{folder.as_posix()}'", "train: images/train", "val: images/val", "nc: 1", "names: ['square']"
    yaml.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return yaml


def train_options(data: Path, script: Path) -> list[str]:
    """Return the options of a train.py for an epoch that takes seconds on a CPU; older ones can't do without plots."""
    options = "--epochs 1 --imgsz 64 --batch-size 2 --device cpu --workers 0 --weights="
    plots = ["--noplots"] if "--noplots" in script.read_text(encoding="utf-8", errors="replace") else []
    return [*options.split(), *plots, "--data", str(data)]


def run_python(
    arguments: Sequence[str], cwd: Path, env: dict[str, str] | None = None, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, its output captured; a failure raises with all of that output.

    fresh: the process has imported nothing before.
    """
    done = warm.run(arguments, cwd, env, fresh=fresh)
    if done.returncode:
        raise AssertionError(f"python {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}")
    return done


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep loggers silent for a while."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def latest() -> Path:
    """Return the latest release, fetched if need be, and make its `yolov5` importable, behind our own `utils`."""
    folder = release(LATEST)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return folder


def yolo(cfg: str, width: float | None = None, **options: Any) -> Any:
    """Build an unpatched model of the latest release, silently, in this process: yolo('hub/yolov5-p6.yaml', nc=1).

    width: a multiple of channels in place of the cfg's own, for where how many there are is not the subject.
    """
    latest()
    import yaml
    from yolov5.models import common
    from yolov5.models import yolo as models

    family = models.SegmentationModel if cfg.startswith("segment/") else models.Model
    activation = common.Conv.default_act
    path = Path(models.__file__).parent / cfg
    thin = {} if width is None else {**yaml.safe_load(path.read_text(encoding="ascii", errors="ignore")),
                                     "width_multiple": width}  # fmt: skip
    try:
        with quiet():
            return family(thin or str(path), **options)
    finally:
        common.Conv.default_act = activation  # a cfg with an activation of its own sets it for all that follow
