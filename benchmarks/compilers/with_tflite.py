"""Convert one network with litert-torch and write the operators of its flatbuffer, with what they compute.

python with_tflite.py NETWORK SIZE OUT.json
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from values import fingerprint, image

LEFT_OUT = {"DELEGATE"}


def operators(path: str, size: int) -> dict[str, Any]:
    """Run a flatbuffer without delegates; return its operators in order and the fingerprint of each tensor."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        path,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
        num_threads=1,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image(size))
    interpreter.invoke()
    details: list[dict[str, Any]] = interpreter._get_ops_details()
    fixed = {each["index"] for each in interpreter.get_tensor_details()}
    made = {int(index) for each in details for index in each["outputs"]}
    entry = interpreter.get_input_details()[0]["index"]
    nodes = [
        {
            "operator": each["op_name"],
            "inputs": [str(index) for index in each["inputs"] if index in made or index == entry],
            "outputs": [str(index) for index in each["outputs"]],
        }
        for each in details
        if each["op_name"] not in LEFT_OUT
    ]
    values = {str(entry): fingerprint(image(size))}
    for index in made & fixed:
        try:
            values[str(index)] = fingerprint(interpreter.get_tensor(index))
        except ValueError:
            continue  # a tensor without data
    return {"nodes": nodes, "values": values}


def main() -> None:
    """Build, convert, run, write."""
    warnings.simplefilter("ignore")
    network, size, out = sys.argv[1:]
    import litert_torch
    import torch
    from networks import build

    model = build(network)
    with tempfile.TemporaryDirectory() as scratch:
        path = f"{scratch}/network.tflite"
        with torch.no_grad():
            litert_torch.convert(model, (torch.zeros(1, 3, int(size), int(size)),)).export(path)
        Path(out).write_text(json.dumps(operators(path, int(size))), encoding="utf-8")


if __name__ == "__main__":
    main()
