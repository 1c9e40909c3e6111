"""Optimise one ONNX file with ONNX Runtime for the CPU and write the nodes that it executes.

python with_onnxruntime.py NETWORK.onnx SIZE OUT.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import onnx
import onnxruntime
from values import all_values


def main() -> None:
    """Optimise at the level `extended`, write the nodes in their order."""
    path, size, out = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as scratch:
        options.optimized_model_filepath = f"{scratch}/optimized.onnx"
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    weights = {each.name for each in model.graph.initializer}
    nodes = [
        {
            "operator": node.op_type,
            "name": node.name,
            "inputs": [name for name in node.input if name and name not in weights],
            "outputs": [name for name in node.output if name],
            "settings": {
                each.name: str(onnx.helper.get_attribute_value(each))
                for each in node.attribute
                if each.name in ("activation", "function", "epsilon")
            },
        }
        for node in model.graph.node
    ]
    names = [name for node in model.graph.node for name in node.output if name]
    found = {"nodes": nodes, "values": all_values(model, names, int(size))}
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
