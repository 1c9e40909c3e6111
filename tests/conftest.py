"""What all tests share: real YOLOv5 releases, and models of the latest one in this process."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path
from typing import Any, Callable

import pytest
from releases import ALL_CFGS, CACHE, ReleaseError, latest, yolo, yolo_settings


def pytest_configure(config: pytest.Config) -> None:
    """Give all tests, and what they start, YOLOv5's settings and a terminal of no width."""
    os.environ.update(yolo_settings(CACHE / "settings"))
    os.environ.pop("COLUMNS", None)  # which pytest-xdist sets for its workers
    os.unsetenv("COLUMNS")  # and readline, which pytest imports, for child processes behind os.environ's back
    if "not slow" not in config.option.markexpr:  # `make quick` fetches none
        try:
            latest()  # before any test loads another release's `yolov5`
        except ReleaseError as error:
            warnings.warn(f"{error}; the tests on real models will fail", stacklevel=1)


_CHECKOUTS = {"yolo", "release_7", "started", "checkout"}
_OF_CHECKOUTS = ("test_patched_releases", "test_train", "test_yolov5", "test_checkouts", "test_sweep", "test_growth",
                 "test_docs", "test_cli", "test_apply", "test_process", "test_notebook", "test_distributed",
                 "test_clock", "test_users_memory", "test_plots", "test_predict", "test_leftovers", "test_forks",
                 "test_verbose", "test_report")  # fmt: skip
_SWEEPS = ("test_digests", "test_training", "test_graphs", "test_torchvision_classifiers",
           "test_torchvision_segmentation", "test_torchvision_detection_falls_back_and_says_so",
           "test_flops_are_the_published_ones",
           "test_operations_of_torchvision_classifiers_equal_the_reference")  # fmt: skip
"""Files and tests that go through many networks."""
_LONGEST = ("test_every_command_works", "test_models_of_several_checkouts_in_one_table",
            "test_summary_in_a_patched_release", "test_made_up_modules_touch_nothing",
            "test_another_checkout_than_that_which_was_patched", "test_networks_of_ones_own",
            "test_tables_are_current")  # fmt: skip
"""From 12 seconds to a minute each: first, or one process is alone with them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes a checkout or other processes, or is long for other reasons: `make quick` leaves it out.

    The longest come first.
    """
    for item in items:
        takes = _CHECKOUTS.intersection(getattr(item, "fixturenames", ()))
        names = {item.path.stem, getattr(item, "originalname", item.name)}
        if takes or names.intersection((*_OF_CHECKOUTS, *_SWEEPS)):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: getattr(item, "originalname", item.name) not in _LONGEST)


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """Keep the garbage collector from going through all of torch again in each test that asks it who holds what.

    Before every file, as more is imported with each.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def release_7() -> Path:
    """The latest release as it was published: the folder that holds `yolov5/`. Not to be written into."""
    folder = latest()
    models = folder / "yolov5" / "models"
    found = {path.relative_to(models).as_posix() for path in models.rglob("yolo*.yaml")}
    assert found == set(ALL_CFGS)
    return folder


@pytest.fixture(name="yolo", scope="session")
def yolo_builder(release_7: Path) -> Callable[..., Any]:
    """`yolo(cfg, **options)`: an unpatched model of the latest release, such as yolo('yolov5s.yaml', nc=1)."""
    import yolov5.models.yolo  # noqa: F401  # says what it does at its first import, which is no test's output

    return yolo
