"""Profile one inference of an ONNX file with ONNX Runtime and write its JSON.

python profile_onnxruntime.py NETWORK.onnx SIZE OUT.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import onnxruntime
from values import image


def session(path: str, profile: str = "") -> onnxruntime.InferenceSession:
    """Load the network for one thread, without an arena, whose numbers would swell the file."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Warm up in a session without a profile, then run once in one with."""
    path, size, out = sys.argv[1:]
    pixels = {"images": image(int(size))}
    warm = session(path)
    for _ in range(3):
        warm.run(None, pixels)
    with tempfile.TemporaryDirectory() as scratch:
        profiled = session(path, f"{scratch}/profile")
        profiled.run(None, pixels)
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    lines = (json.dumps(event, separators=(",", ":")) for event in events)  # as it came, but without blanks
    Path(out).write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
