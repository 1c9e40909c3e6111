"""Draw four pictures and print the comparison table that docs/figures.md shows, by the commands that it shows them for.

python benchmarks/pictures.py                       draw into docs/, print the table
python benchmarks/pictures.py --check docs/figures.md   exit with 1 if the file's table is another one; draw nothing
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import warm
from releases import LATEST, ROOT, release

from benchmarks.model_table import table_in

DOCS = ROOT / "docs"
NETWORK = "summary models/yolov5s.yaml --depth 1 --device rtx-3090"
CHOICE = "choose --device rk3588 --fps 30 --imgsz 640"
TIME = "predict models/yolov5s.yaml --device rk3588"
COMPARISON = (
    "compare models/yolov5s.yaml models/hub/yolov5s-ghost.yaml models/hub/yolov5s-transformer.yaml"
    " models/hub/yolov5-p34.yaml models/hub/yolov3-tiny.yaml models/yolov5n.yaml"
    " --half --fuse --device jetson-orin-nano --columns gflops,accesses,traffic,least,time --markdown"
)


_RUN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from utils.thop.command.cli import main
sys.exit(main())
"""


def command(words: str, *more: str) -> str:
    """Run the command in the latest release and return what it prints."""
    done = warm.run(["-c", _RUN, str(ROOT), *words.split(), *more], release(LATEST) / "yolov5", both=False)
    assert not done.returncode, done.stderr
    return done.stdout


def main() -> int:
    """Draw and print, or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with the table in this file")
    path = parser.parse_args().check
    if path is None:
        DOCS.mkdir(exist_ok=True)
        command(NETWORK, "--plot", str(DOCS / "network.png"))
        command(TIME, "--plot", str(DOCS / "time.png"))
        command(CHOICE, "--plot", str(DOCS / "choice.png"))
        print(command(COMPARISON, "--plot", str(DOCS / "comparison.png")), end="")
        return 0
    compared = command(COMPARISON).splitlines()
    if table_in(path.read_text(encoding="utf-8"), compared[0]) != table_in("\n".join(compared), compared[0]):
        print(f"{path}: its comparison is not what `python benchmarks/pictures.py` prints")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
