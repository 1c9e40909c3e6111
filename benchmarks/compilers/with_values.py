"""Run one ONNX file without any optimisation and write the numbers by which each of its tensors is known again.

python with_values.py NETWORK.onnx SIZE OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import onnxruntime
from values import fingerprint, image

AT_ONCE = 500


def main() -> None:
    """Run the network as often as it takes to see all of its tensors, some at a time."""
    path, size, out = sys.argv[1:]
    model = onnx.load(path)
    last = [each.name for each in model.graph.output]
    names = [name for node in model.graph.node for name in node.output if name and node.op_type != "Constant"]
    pixels = image(int(size))
    found = {"images": fingerprint(pixels)}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(some + last))
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = session.run(some, {"images": pixels})
        found.update({name: fingerprint(result) for name, result in zip(some, results)})
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
