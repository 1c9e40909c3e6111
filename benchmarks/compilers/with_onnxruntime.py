"""Optimise one ONNX file with ONNX Runtime for the CPU and write the nodes that it executes.

python with_onnxruntime.py NETWORK.onnx SIZE OUT.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from values import fingerprint, image

AT_ONCE = 500


def values(model: Any, size: int) -> dict[str, list[float]]:
    """Run an optimised network as it is and return the fingerprint of each tensor."""
    names = [name for node in model.graph.node for name in node.output if name]
    found = {"images": fingerprint(image(size))}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in some)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found.update(zip(some, map(fingerprint, session.run(some, {"images": image(size)}))))
    return found


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
    Path(out).write_text(json.dumps({"nodes": nodes, "values": values(model, int(size))}), encoding="utf-8")


if __name__ == "__main__":
    main()
