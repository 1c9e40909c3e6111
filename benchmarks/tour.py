"""Execute the notebook docs/tour.ipynb in a patched release, and keep its outputs in the file: benchmarks/tour.py."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import nbformat  # noqa: E402
from nbclient import NotebookClient  # noqa: E402
from releases import LATEST, copy_release, patch, run_python, yolo_settings  # noqa: E402

TOUR = ROOT / "docs" / "tour.ipynb"


def executed(notebook: Any, folder: Path) -> Any:
    """Execute a notebook with a release beside it that is patched, in a folder that has room for all that it writes."""
    release = copy_release(LATEST, folder / "release")
    patch(release / "yolov5")
    names = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    own = {**yolo_settings(folder / "settings"), **{name: str(folder / name.lower()) for name in names}}
    with mock.patch.dict(os.environ, own):
        run_python(["-c", "import ultralytics"], folder)  # which greets at first
        where = {"metadata": {"path": str(release)}}
        NotebookClient(notebook, timeout=300, startup_timeout=180, kernel_name="python3", resources=where).execute()
    return notebook


def texts(notebook: Any) -> list[str]:
    """What every code cell shows as text, stream by stream: in which order two streams arrive is chance."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = sorted(cell.outputs, key=lambda output: output.get("name", ""))
            found.append("".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs))
    return found


def main() -> None:
    """Execute, and write."""
    notebook = nbformat.read(TOUR, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        executed(notebook, Path(folder))
    for cell in notebook.cells:
        cell.metadata = {}
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(notebook, TOUR)


if __name__ == "__main__":
    main()
