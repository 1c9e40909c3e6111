"""Compile one ONNX file with OpenVINO for the CPU and write the nodes that it executes.

python with_openvino.py NETWORK.onnx SIZE OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import openvino
from values import image

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERF_COUNT": True}


def described(node: Any, profile: dict[str, Any]) -> dict[str, Any]:
    """Return what the runtime says of one node."""
    info = {key: str(node.rt_info[key].astype(str)) for key in ("layerType", "originalLayersNames", "primitiveType")}
    seen = profile.get(node.get_friendly_name())
    return {
        "name": node.get_friendly_name(),
        "operator": info["layerType"],
        "members": [name for name in info["originalLayersNames"].split(",") if name],
        "inputs": [f"{each.get_node().get_friendly_name()}:{each.get_index()}" for each in node.input_values()],
        "outputs": [f"{node.get_friendly_name()}:{index}" for index in range(node.get_output_size())],
        "primitive": info["primitiveType"],
        "order": int(node.rt_info["execOrder"].astype(str)),
        "status": str(seen.status).split(".")[-1] if seen else "",
        "microseconds": seen.real_time.total_seconds() * 1e6 if seen else 0.0,
        "cpu_microseconds": seen.cpu_time.total_seconds() * 1e6 if seen else 0.0,
    }


def main() -> None:
    """Compile, run once or twice, write the nodes in the order of execution."""
    path, size, out = sys.argv[1:]
    compiled = openvino.Core().compile_model(path, "CPU", SETTINGS)
    request = compiled.create_infer_request()
    for _ in range(2):
        request.infer({"images": image(int(size))})
    profile = {each.node_name: each for each in request.profiling_info}
    nodes = [described(node, profile) for node in compiled.get_runtime_model().get_ordered_ops()]
    Path(out).write_text(json.dumps({"nodes": sorted(nodes, key=lambda node: node["order"])}), encoding="utf-8")


if __name__ == "__main__":
    main()
