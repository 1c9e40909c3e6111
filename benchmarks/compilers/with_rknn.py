"""Build one ONNX file with rknn-toolkit2 in int8 and keep what it prints; runs in an environment that has the toolkit.

python with_rknn.py NETWORK.onnx SIZE DEVICE LOG
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# A rule that fails in 2.5.0 on some attention; the toolkit itself says to switch it off then.
FAILING = ["fuse_exmatmul_add_mul_exsoftmax13_exmatmul_to_sdpa"]


def built(onnx: str, device: str, settings: dict[str, Any]) -> bool:
    """Build with these settings into an empty log; return whether it worked."""
    from rknn.api import RKNN

    os.ftruncate(1, 0)
    print(f"settings: {settings}", flush=True)
    toolkit = RKNN(verbose=True)
    toolkit.config(target_platform=device, optimization_level=3, **settings)
    try:
        return not toolkit.load_onnx(onnx) and not toolkit.build(do_quantization=True, dataset="images.txt")
    except Exception as error:
        print(error, flush=True)
        return False


def main() -> None:
    """Build for the device, with one made-up image to quantise by, and write the log."""
    onnx, size, device, log = sys.argv[1:]
    import numpy as np

    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), 1)
    os.dup2(1, 2)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        image = np.random.default_rng(0).standard_normal((1, 3, int(size), int(size))).astype("float32")
        np.save("image.npy", image)
        Path("images.txt").write_text("image.npy\n")
        if not any(built(onnx, device, settings) for settings in ({}, {"disable_rules": FAILING})):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
