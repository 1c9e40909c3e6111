"""``model_info(model, verbose=True)`` in a bare script, where nobody has set logging up, on old and new releases."""

from __future__ import annotations

from pathlib import Path

import pytest
from releases import copy_release, patch, run_python, yolo_environment

SCRIPT = """
import logging, sys
from yolov5.models.yolo import Model
from yolov5.utils.torch_utils import model_info
model = Model(sys.argv[1])
for arguments in eval(sys.argv[2]):
    print("-- asked")
    model_info(model, **arguments)
"""


def run(folder: Path, arguments: str, tmp_path: Path, **environment: str) -> list[str]:
    cfg = next((folder / "yolov5").rglob("yolov5s.yaml"))
    env = {**yolo_environment(tmp_path / "settings"), **environment}
    done = run_python(["-u", "-W", "ignore", "-c", SCRIPT, str(cfg), arguments], folder, env)
    return done.stdout.split("-- asked")[1:]


@pytest.mark.parametrize("version", ["4.0.14", "5.0.10", "7.0.14"])
def test_the_line_and_the_table_in_a_bare_script(version: str, tmp_path: Path) -> None:
    folder = copy_release(version, tmp_path / "release")
    patch(folder / "yolov5")
    text, plain = run(folder, "[{'verbose': True}, {}]", tmp_path)
    assert text.count("memory accesses (") == 1 and "GFLOPs" in text
    (head,) = [line for line in text.splitlines() if line.split()[:3] == ["module", "type", "output"]]
    assert "kernel" in head and any(line.startswith("total ") for line in text.splitlines())
    assert (
        sum(line.startswith("model.") and "x" in line.replace(" * ", "   ").split()[2] for line in text.splitlines())
        == 25
    )
    assert "module  " not in plain
    (quiet,) = run(folder, "[{'verbose': True}]", tmp_path, RANK="1")
    assert "memory accesses" not in quiet
