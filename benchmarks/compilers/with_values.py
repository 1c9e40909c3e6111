"""Run one ONNX file without any optimisation and write the numbers by which each of its tensors is known again.

python with_values.py NETWORK.onnx SIZE OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
from values import all_values


def main() -> None:
    """Run the network as often as it takes to see all of its tensors, some at a time."""
    path, size, out = sys.argv[1:]
    model = onnx.load(path)
    names = [name for node in model.graph.node for name in node.output if name and node.op_type != "Constant"]
    Path(out).write_text(json.dumps(all_values(model, names, int(size))), encoding="utf-8")


if __name__ == "__main__":
    main()
