"""A real notebook, executed by a real kernel in a patched release: its last cell shows the table as HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from releases import LATEST, copy_release, patch, yolo_settings

CELLS = (
    "from yolov5.models.yolo import Model\n"
    "from yolov5.utils.torch_utils import model_info\n"
    "model = Model('yolov5/models/yolov5n.yaml')",
    "info = model_info(model, verbose=True)",
    "info",
    "model_info(model, depth=1, sort='traffic')",
)


@pytest.fixture(name="outputs", scope="module")
def outputs_of_the_cells(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """Execute the cells in a kernel of this Python, whose own files go into a temporary folder."""
    folder = tmp_path_factory.mktemp("notebook")
    release = copy_release(LATEST, folder / "release")
    patch(release / "yolov5")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    with pytest.MonkeyPatch.context() as environment:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            environment.setenv(name, str(folder / name.lower()))
        for name, value in yolo_settings(folder / "settings").items():
            environment.setenv(name, value)
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=in_folder(release)).execute()
    path = folder / "executed.ipynb"
    nbformat.write(notebook, path)
    return [cell.outputs for cell in nbformat.read(path, as_version=4).cells]


def in_folder(folder: Path) -> dict[str, Any]:
    """What tells nbclient where the kernel starts."""
    return {"metadata": {"path": str(folder)}}


def html(outputs: list[Any]) -> str:
    """The HTML of a cell's result."""
    (result,) = [output for output in outputs if output.output_type == "execute_result"]
    return str(result.data["text/html"])


def test_the_call_prints_the_line_and_the_table(outputs: list[list[Any]]) -> None:
    text = "".join(output.text for output in outputs[1])
    assert "YOLOv5n summary: " in text and "40.3M memory accesses (1.9M kernel + 38.4M output)" in text
    total = next(line.split() for line in text.splitlines() if line.startswith("total "))
    assert total[1:6] == ["1.9M", "4.563", "1.9M", "38.4M", "100.0%"]


def test_the_object_shows_itself_as_a_table(outputs: list[list[Any]]) -> None:
    shown = html(outputs[2])
    total = shown[shown.index("<tfoot>") : shown.index("</tfoot>")]
    assert ">total<" in total and all(f">{cell}<" in total for cell in ("1.9M", "4.563", "38.4M", "100.0%"))
    assert 25 < shown.count("<tr") < 40 and ">model.24 *<" in shown
    assert "40.3M memory accesses (1.9M kernel + 38.4M output)" in shown


def test_depth_and_sort_hold_for_the_object_too(outputs: list[list[Any]]) -> None:
    shown = html(outputs[3])
    rows = shown[shown.index("<tbody>") : shown.index("</tbody>")].split("</tr>")[:-1]
    assert len(rows) == 25 and ">model.24 *<" in rows[0]
