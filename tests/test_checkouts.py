"""Checkouts that no wheel holds, from a folder that YOLOV5_CHECKOUTS names; and models of several in one table.

That folder has clones by their names: yolov5-face, yolov7, yolov9, and yolov5-TAG (yolov5-v3.1, yolov5-master).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import warm
from releases import ROOT, copy_release, patch, release, run_python, yolo_environment

from utils.thop import compare
from utils.thop.command.models import ModelError, Setup, build, find

SCRIPT = """
import logging, sys, torch
from models.yolo import Model
from utils.torch_utils import model_info
with torch.no_grad():  # which setting the biases of the oldest heads takes since torch 1.13
    model = Model(sys.argv[1])
print("-- built")
model_info(model, verbose=True)
"""
CFGS = {"yolov9": "models/detect/gelan-c.yaml", "yolov7": "cfg/training/yolov7.yaml"}
NAMES = ("yolov5-master", "yolov5-face", "yolov9", "yolov7", "yolov5-v3.1", "yolov5-v3.0", "yolov5-v2.0", "yolov5-v1.0")


def clone(name: str, tmp_path: Path) -> Path:
    """Copy a clone and patch it; skip the test where there is none."""
    source = Path(os.environ.get("YOLOV5_CHECKOUTS", "")) / name
    if not os.environ.get("YOLOV5_CHECKOUTS") or not source.is_dir():
        pytest.skip(f"YOLOV5_CHECKOUTS names no folder with a clone {name}")
    folder = tmp_path / name
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    patch(folder)
    return folder


def said(arguments: list[str], cwd: Path, tmp_path: Path) -> str:
    return run_python(["-u", "-W", "ignore", *arguments], cwd, yolo_environment(tmp_path / "settings")).stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_line_and_the_table_of_a_clone(name: str, tmp_path: Path) -> None:
    folder = clone(name, tmp_path)
    _, _, text = said(["-c", SCRIPT, CFGS.get(name, "models/yolov5s.yaml")], folder, tmp_path).partition("-- built")
    assert text.count("memory accesses (") == 1 and "GFLOPs" in text
    assert sum(line.split()[:3] == ["module", "type", "output"] for line in text.splitlines()) == 1
    assert any(line.startswith("total ") for line in text.splitlines())


def test_auxiliary_heads_of_clones(tmp_path: Path) -> None:
    seven, nine = clone("yolov7", tmp_path), clone("yolov9", tmp_path)
    command = ["-m", "utils.thop", "summary", "--depth", "1", "--device", "t4"]
    text = said([*command, "cfg/training/yolov7-w6.yaml"], seven, tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("An export leaves out")]
    assert "model.118" in line and "model.122.m2" in line
    text = said([*command, "models/detect/yolov9-s.yaml"], nine, tmp_path)
    (line,) = [line for line in text.splitlines() if "two sets of predictions" in line]
    both, without = line.split(" GFLOPs with both, ")
    alone = said(["-m", "utils.thop", "summary", "--json", "models/detect/gelan-s.yaml"], nine, tmp_path)
    alone = json.loads(alone[alone.index("{") :])
    assert float(without.split()[0]) == pytest.approx(
        alone["totals"]["gflops"], rel=0.03
    )  # with norms, and no merged branch
    assert float(without.split()[0]) < 0.75 * float(both.split()[-1])


def test_models_of_several_checkouts_in_one_table(yolo: Any) -> None:
    assert yolo("yolov5n.yaml")  # another checkout than that of the first cfg is loaded here
    cfgs = [str(release(version) / "yolov5/models/yolov5s.yaml") for version in ("5.0.10", "7.0.14")]
    alone = compare(cfgs[:1]).rows[0]
    own = build(find([cfgs[1]])[0], Setup(), without_values=True)  # and the one that is loaded is still at hand
    assert own.parameters == 7_235_389
    text = run_python(
        ["-m", "utils.thop", "compare", *cfgs, "torchvision:resnet18", "--device", "t4", "--json"], cwd=ROOT
    ).stdout
    rows = json.loads(text[text.index("[\n") : text.rindex("]") + 1])
    names = [f"{version}/yolov5/models/yolov5s.yaml" for version in ("5.0.10", "7.0.14")]
    assert [row["model"] for row in rows] == [*names, "resnet18"]
    assert [row["error"] for row in rows] == [""] * 3 and all(row["predicted_seconds"] for row in rows)
    assert rows[0]["accesses"] == alone.numbers()["accesses"] != rows[1]["accesses"]


def test_another_checkout_than_that_which_was_patched(tmp_path: Path) -> None:
    patched = copy_release("7.0.14", tmp_path / "seven")
    patch(patched / "yolov5")
    other = copy_release("6.0.7", tmp_path / "six")
    (tmp_path / "broken" / "models").mkdir(parents=True)
    (tmp_path / "broken/models/yolo.py").write_text("class Model(:\n")
    (tmp_path / "broken/utils").mkdir()
    shutil.copy(other / "yolov5/models/yolov5n.yaml", tmp_path / "broken/models")
    models = [
        "yolov5/models/yolov5n.yaml",
        str(other / "yolov5/models/yolov5s.yaml"),
        str(tmp_path / "broken/models/yolov5n.yaml"),
    ]
    command = ["-m", "yolov5.utils.thop", "compare", "--json", *models]
    done = warm.run(command, patched, yolo_environment(tmp_path / "settings"), both=False)
    first, second, third = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert done.returncode == 1 and not first["error"] and not second["error"]
    assert second["parameters"] > 7e6 > first["parameters"]
    assert "can't be imported" in third["error"] and "SyntaxError" in third["error"] and "\n" not in third["error"]


def test_line_profile_without_thop(tmp_path: Path) -> None:
    folder = copy_release("7.0.14", tmp_path / "release") / "yolov5"
    patch(folder)
    hidden = "import sys; sys.modules['thop'] = None; sys.argv = ['yolo.py', '--line-profile', '--device', 'cpu']\n"
    run = "import runpy; runpy.run_module('yolov5.models.yolo', run_name='__main__', alter_sys=True)"
    text = said(["-c", hidden + run], folder.parent, tmp_path)
    rows = [line.split() for line in text.splitlines() if "models.common.Conv" in line and "ms" not in line]
    assert len(rows) >= 7 and all(float(row[1]) > 0 for row in rows if len(row) == 4), text


def test_a_name_stands_for_one_file(tmp_path: Path) -> None:
    pattern = str(release("7.0.14") / "yolov5/models/yolov5?.yaml")
    with pytest.raises(ModelError, match="stands for 5 files"):
        compare({"mine": pattern})
