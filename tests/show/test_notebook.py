"""Real notebooks, executed by a real kernel in a patched release: its last cell shows the table as HTML."""

from __future__ import annotations

import re
from typing import Any

import nbformat
import pytest

from benchmarks import tour

CELLS = (
    "from yolov5.models.yolo import Model\n"
    "from yolov5.utils.torch_utils import model_info\n"
    "model = Model('yolov5/models/yolov5n.yaml')",
    "info = model_info(model, verbose=True)",
    "info",
    "model_info(model, depth=1, sort='traffic')",
)


@pytest.fixture(name="cells", scope="module")
def executed_cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The cells of docs/tour.ipynb and those above, after one kernel of this Python has executed them."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(tour.TOUR, as_version=4)
    notebook.cells += map(nbformat.v4.new_code_cell, CELLS)
    nbformat.write(tour.executed(notebook, folder), folder / "executed.ipynb")
    return list(nbformat.read(folder / "executed.ipynb", as_version=4).cells)


@pytest.fixture(name="outputs", scope="module")
def outputs_of_the_cells(cells: list[Any]) -> list[list[Any]]:
    return [cell.outputs for cell in cells[-len(CELLS) :]]


def html(outputs: list[Any]) -> str:
    """The HTML of a cell's result."""
    (result,) = [output for output in outputs if output.output_type == "execute_result"]
    return str(result.data["text/html"])


def test_the_tour_shows_what_it_shows_today(cells: list[Any]) -> None:
    before = tour.texts(nbformat.read(tour.TOUR, as_version=4))
    assert tour.texts(nbformat.v4.new_notebook(cells=cells[: -len(CELLS)])) == before
    text = tour.TOUR.read_text(encoding="utf-8")
    assert "<table" in text and "memory accesses" in text
    assert not re.search(r"/(tmp|home|root|Users)/", text)


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
