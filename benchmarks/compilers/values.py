"""By which numbers a tensor is known again in another runtime, whatever the order of its axes there."""

from __future__ import annotations

from typing import Any

import numpy as np


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
