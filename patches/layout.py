"""What lies where in a checkout and in this project, by name, and the refusal that leaves it so."""

from __future__ import annotations

# Whole lines, word for word, in this project's own source. In a checkout the first carries the version too.
BEGIN = "# >>> yolov5 memory access >>>"
END = "# <<< yolov5 memory access <<<"
MODULE = "utils/torch_utils.py"
FOLDER = "utils/thop"
RIVAL_MODULE = "utils/thop.py"
MANIFEST = "patch.json"
TOOL = "yolov5-memory-access"
PREFIX = ".yolov5-memory-access-"  # every temporary name starts so: what a killed run leaves can be told


class Refusal(Exception):
    """Why nothing was done, in one line for the user."""
