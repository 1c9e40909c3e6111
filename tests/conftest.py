"""What all tests share: real YOLOv5 releases, and models of the latest one in this process."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any, Callable

import pytest
from releases import ALL_CFGS, CACHE, LATEST, ReleaseError, release, yolo, yolo_settings


def pytest_configure(config: pytest.Config) -> None:
    """Make `yolov5` importable, behind this repository's own `utils`, before any test file is read."""
    os.environ.update(yolo_settings(CACHE / "settings"))
    os.environ.pop("COLUMNS", None)  # which pytest-xdist sets for its workers
    os.unsetenv("COLUMNS")  # and readline, which pytest imports, for child processes behind os.environ's back
    try:
        sys.path.append(str(release(LATEST)))
    except ReleaseError as error:
        warnings.warn(f"{error}; the tests on real models will fail", stacklevel=1)


@pytest.fixture(scope="session")
def release_7() -> Path:
    """The latest release as it was published: the folder that holds `yolov5/`. Not to be written into."""
    folder = release(LATEST)
    models = folder / "yolov5" / "models"
    found = {path.relative_to(models).as_posix() for path in models.rglob("yolo*.yaml")}
    assert found == set(ALL_CFGS)
    return folder


@pytest.fixture(name="yolo", scope="session")
def yolo_builder(release_7: Path) -> Callable[..., Any]:
    """`yolo(cfg, **options)`: an unpatched model of the latest release, such as yolo('yolov5s.yaml', nc=1)."""
    import yolov5.models.yolo  # noqa: F401  # says what it does at its first import, which is no test's output

    return yolo
