"""Real releases before, with and after the patch: what their summary line says, and that nothing else changes."""

import json
import py_compile
import re
from pathlib import Path
from typing import Any, Dict, List

import pytest
from releases import ROOT, VERSIONS, copy_release, patch, release, run_python, yolo_environment

ADDED = re.compile(r", (\S+) memory accesses \((\S+) kernel \+ (\S+) output\)$")

LINES = """
import contextlib, io, json, logging, sys
logging.disable(logging.CRITICAL)
try:
    import yolov5.utils.torch_utils as torch_utils
    from yolov5.models.yolo import Model
    import torch
    torch.manual_seed(0)
    model = Model(sys.argv[1] + '/yolov5s.yaml')
except Exception as error:
    print(json.dumps({'import': repr(error)}))
    sys.exit()
logging.disable(0)
logger = getattr(torch_utils, 'LOGGER', None) or torch_utils.logger
logger.setLevel(logging.INFO)
logger.propagate = False
lines = []
class Keep(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logger.handlers = [Keep()]
def ask(*args, **kwargs):
    lines.clear()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        torch_utils.model_info(model, *args, **kwargs)
    return printed.getvalue().splitlines() + lines
size = 'imgsz' if 'imgsz' in torch_utils.model_info.__code__.co_varnames[:5] else 'img_size'
if hasattr(torch_utils, '_checkout_model_info'):
    names = torch_utils._checkout_model_info.__code__.co_varnames
    size = 'imgsz' if 'imgsz' in names else 'img_size'
answers = {
    'plain': ask(),
    'positional': ask(False, 320),
    'by name': ask(**{size: [320, 640]}),
    'verbose': ask(verbose=True),
}
model.eval()
answers['eval'] = ask()
logging.disable(logging.INFO)
model.fuse()
logging.disable(0)
answers['fused'] = ask()
logger.setLevel(logging.ERROR)
answers['quiet rank'] = ask()
print(json.dumps(answers))
"""


def ask_release(folder: Path) -> Dict[str, List[str]]:
    """Let a release print its summary lines in a process of its own."""
    models = folder / "yolov5" / "models"
    done = run_python(["-c", LINES, str(models)], cwd=folder, env=yolo_environment(folder.parent / "settings"))
    answers: Dict[str, List[str]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def snapshot(folder: Path) -> Dict[str, Any]:
    """Every file below a folder with its mode and bytes, but for the bytecode that running Python leaves."""
    files = [f for f in folder.rglob("*") if "__pycache__" not in f.parts and f.is_file()]
    return {f.relative_to(folder).as_posix(): (f.stat().st_mode, f.read_bytes()) for f in files}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_line_begins_as_before_and_the_tree_comes_back(version: str, tmp_path: Path) -> None:
    folder = copy_release(version, tmp_path / "release")
    original = snapshot(folder)
    before = ask_release(folder)
    patch(folder / "yolov5")
    for file in [folder / "yolov5/utils/torch_utils.py", *(folder / "yolov5/utils/thop").glob("*.py")]:
        py_compile.compile(str(file), doraise=True)
    after = ask_release(folder)
    run_python([str(ROOT / "patches/apply.py"), str(folder / "yolov5"), "--revert"], cwd=tmp_path)
    assert snapshot(folder) == original
    assert before.keys() == after.keys()
    if "import" in before:
        assert before == after
        return
    assert before["quiet rank"] == after["quiet rank"] == []
    for question in ("plain", "positional", "by name", "eval", "fused"):
        (old,), (new,) = before[question], after[question]
        assert "GFLOP" in old and new.startswith(old)
        assert ADDED.fullmatch(new[len(old) :]), new
    if version == "7.0.14":
        assert after["plain"] == [
            "YOLOv5s summary: 214 layers, 7235389 parameters, 7235389 gradients, 16.6 GFLOPs, "
            "81.9M memory accesses (7.2M kernel + 74.6M output)"
        ]
    end = len(before["verbose"])
    assert after["verbose"][: end - 1] == before["verbose"][:-1]
    table = "\n".join(after["verbose"][end:]).splitlines()
    assert table[0].split()[:5] == ["module", "type", "output", "shape", "params"]
    (total,) = [line.split() for line in table if line.startswith("total ")]
    assert len(total) == 8 and total[-1] == total[-3] == "100.0%" and total[-2].endswith("B")


CLASSIFIER = """
import json, logging, sys, torch
logging.disable(logging.CRITICAL)
import yolov5.utils.torch_utils as torch_utils
from yolov5.models.yolo import ClassificationModel, DetectionModel
model = ClassificationModel(model=DetectionModel(sys.argv[1] + '/yolov5s.yaml'), nc=1000, cutoff=10)
import thop
exact = thop.profile(model, (torch.zeros(1, 3, 640, 640),), verbose=False)[0] * 2 / 1e9
logging.disable(0)
lines = []
torch_utils.LOGGER.info = lines.append
torch_utils.model_info(model)
print(json.dumps([lines[-1], exact]))
"""


def test_a_classifier_gets_the_exact_figure_behind_a_multiplied_one(tmp_path: Path) -> None:
    folder = copy_release("7.0.14", tmp_path / "release")

    def ask() -> Any:
        arguments = ["-c", CLASSIFIER, str(folder / "yolov5/models")]
        done = run_python(arguments, cwd=folder, env=yolo_environment(tmp_path / "settings"))
        line, exact = json.loads(done.stdout.splitlines()[-1])
        found = re.search(r"([\d.]+) GFLOPs(?: \(([\d.]+) exact\))?", line)
        assert found
        return float(found[1]), found[2], exact

    multiplied, behind, exact = ask()
    assert multiplied > exact + 0.2 and behind is None
    patch(folder / "yolov5")
    multiplied_again, behind, exact_again = ask()
    assert (multiplied, exact) == (multiplied_again, exact_again)
    assert float(behind) == pytest.approx(exact, abs=0.05)


def test_the_releases_are_what_the_registry_has() -> None:
    assert all((release(version) / "yolov5/utils/torch_utils.py").is_file() for version in VERSIONS)
