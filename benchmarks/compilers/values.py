"""By which numbers a tensor is known again in another runtime, whatever the order of its axes there."""

from __future__ import annotations

from typing import Any

import numpy as np

AT_ONCE = 500  # tensors that are looked at in one run


def image(size: int) -> Any:
    """Return the made-up image that every runtime gets."""
    return np.random.default_rng(0).standard_normal((1, 3, size, size)).astype("float32")


def fingerprint(values: Any) -> list[float]:
    """Return size, root of the mean square, mean, mean size, largest and smallest of the values."""
    flat = np.asarray(values, dtype="float64").ravel()
    if not flat.size:
        return [0.0] * 6
    statistics = np.sqrt(np.mean(flat**2)), flat.mean(), np.abs(flat).mean(), flat.max(), flat.min()
    return [float(flat.size), *(float(f"{each:.7g}") for each in statistics)]


def all_values(model: Any, names: list[str], size: int) -> dict[str, list[float]]:
    """Run an ONNX model as it is, as often as it takes to see the named tensors, and return the fingerprint of each."""
    import onnx
    import onnxruntime

    last = [each.name for each in model.graph.output]
    pixels = image(size)
    found = {"images": fingerprint(pixels)}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(some + last))
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found.update(zip(some, map(fingerprint, session.run(some, {"images": pixels}))))
    return found
