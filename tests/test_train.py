"""A real train.py of a patched release: its log, and its checkpoint in a release that nobody patched."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from releases import LATEST, copy_release, make_data_set, patch, run_python, train_options, yolo_environment
from torch import nn

from utils.thop import profile

SUMMARY = re.compile(
    r"YOLOv5n summary: \d+ layers, (?P<parameters>\d+) parameters, \d+ gradients, \S+ GFLOPs, "
    r"(?P<total>\S+)M memory accesses \((?P<kernel>\S+)M kernel \+ (?P<output>\S+)M output\)$",
    re.MULTILINE,
)
LOAD = """
import json, sys, torch
from yolov5.models.yolo import Model
checkpoint = torch.load(sys.argv[1], map_location="cpu", weights_only=False)
trained = checkpoint["model"].float()
trained.eval()(torch.zeros(1, 3, 64, 64))
keys = Model("yolov5/models/yolov5n.yaml", nc=1).load_state_dict(trained.state_dict(), strict=True)
names = [name for module in trained.modules() for name in [*vars(module), *module._buffers, *module._forward_hooks]]
report = {"unexpected": keys.unexpected_keys, "missing": keys.missing_keys, "names": sorted(set(map(str, names))),
          "thop": [name for name in sys.modules if "utils.thop" in name], "keys": list(trained.state_dict())}
print(json.dumps(report))
"""


@dataclass(frozen=True)
class Training:
    """A finished run: what it printed, and the folder that it wrote."""

    log: str
    folder: Path


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Train yolov5n for an epoch in a patched copy of the release."""
    folder = tmp_path_factory.mktemp("train")
    cwd = copy_release(LATEST, folder / "release")
    patch(cwd / "yolov5")
    where = ["--project", str(folder / "runs"), "--name", "train"]
    data, script = make_data_set(folder / "data"), cwd / "yolov5" / "train.py"
    options = [*train_options(data, script), "--cfg", "yolov5/models/yolov5n.yaml", *where]
    environment = yolo_environment(folder / "settings")
    log = run_python(["-m", "yolov5.train", *options], cwd, environment).stdout
    return Training(log, folder / "runs" / "train")


def expected(model: nn.Module) -> dict[str, str]:
    """Count the same model in this process, its kernel accesses by hand."""
    counted = profile(model, (torch.zeros(1, 3, 640, 640),), verbose=False)
    kernel = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    assert counted[2] == kernel
    millions = {"kernel": kernel, "output": counted[3], "total": kernel + counted[3]}
    parameters = {"parameters": str(sum(p.numel() for p in model.parameters()))}
    return {**parameters, **{name: f"{value / 1e6:.1f}" for name, value in millions.items()}}


def test_the_log_has_the_memory_accesses_before_and_after_fusing(training: Training, yolo: Callable[..., Any]) -> None:
    model = yolo("yolov5n.yaml", nc=1)
    lines = [match.groupdict() for match in SUMMARY.finditer(training.log)]
    assert lines[0] == expected(model), training.log
    assert lines[-1] == expected(model.fuse()), training.log


def test_the_epoch_and_its_validation_ran(training: Training) -> None:
    assert "1 epochs completed in" in training.log
    assert re.search(r"Class +Images +Instances .*mAP50", training.log)
    assert re.search(r"^ +all +2 +2( +\S+){4}$", training.log, re.MULTILINE), training.log
    with open(training.folder / "results.csv", encoding="utf-8") as file:
        epochs = [{name.strip(): float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [epoch["epoch"] for epoch in epochs] == [0]
    assert 0 <= epochs[0]["metrics/mAP_0.5"] <= 1


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_the_checkpoint_loads_where_nothing_is_patched(
    training: Training, release_7: Path, tmp_path: Path, name: str
) -> None:
    weights = training.folder / "weights" / name
    done = run_python(["-c", LOAD, str(weights)], release_7, yolo_environment(tmp_path / "settings"))
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["unexpected"], report["missing"], report["thop"]) == ([], [], [])
    assert not [key for key in report["keys"] + report["names"] if "total_" in key]
    assert len(report["keys"]) > 300
