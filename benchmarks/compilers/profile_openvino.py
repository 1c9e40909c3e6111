"""Profile one ONNX file with OpenVINO's own benchmark_app and write its report of each layer.

python profile_openvino.py NETWORK.onnx SIZE OUT.csv
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OPTIONS = {
    "d": "CPU",
    "api": "sync",
    "hint": "none",
    "niter": "20",
    "nthreads": "1",
    "nstreams": "1",
    "infer_precision": "f32",
    "ip": "f32",
    "report_type": "detailed_counters",
}


def main() -> None:
    """Run the tool and keep its report."""
    path, _, out = sys.argv[1:]
    tool = str(Path(sys.executable).parent / "benchmark_app")
    with tempfile.TemporaryDirectory() as scratch:
        options = [word for name, value in OPTIONS.items() for word in (f"-{name}", value)]
        subprocess.run([tool, "-m", path, "-report_folder", scratch, *options], check=True)
        shutil.copy(Path(scratch) / "benchmark_detailed_counters_report.csv", out)


if __name__ == "__main__":
    main()
