"""Execute the notebook docs/tour.ipynb in a patched release, and keep its outputs in the file.

python benchmarks/tour.py             execute it, write its outputs
python benchmarks/tour.py --check     exit with 1 if the text of an output is another one than the file has
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import nbformat  # noqa: E402
from nbclient import NotebookClient  # noqa: E402
from releases import LATEST, copy_release, patch, yolo_settings  # noqa: E402

TOUR = ROOT / "docs" / "tour.ipynb"


def executed(notebook: Any, folder: Path) -> Any:
    """Execute a notebook with a release beside it that is patched, in a folder that has room for all that it writes."""
    release = copy_release(LATEST, folder / "release")
    patch(release / "yolov5")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        os.environ[name] = str(folder / name.lower())
    os.environ.update(yolo_settings(folder / "settings"))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-c", "import ultralytics"], check=True, **quiet)  # which greets at first
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


def main() -> int:
    """Execute, and write or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    notebook = nbformat.read(TOUR, as_version=4)
    before = texts(notebook)
    with tempfile.TemporaryDirectory() as folder:
        executed(notebook, Path(folder))
    if check:
        for old, new in zip(before, texts(notebook)):
            if old != new:
                print(f"{TOUR}: a cell shows\n{new}\nand not\n{old}")
                return 1
        return 0
    for cell in notebook.cells:
        cell.metadata = {}
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(notebook, TOUR)
    return 0


if __name__ == "__main__":
    sys.exit(main())
