"""Convert one TorchScript file with pnnx and write the layers of the ncnn network, with what they compute.

python with_ncnn.py NETWORK.pt SIZE OUT.json
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
from values import fingerprint, image


def layers(text: str) -> list[dict[str, Any]]:
    """Read a .ncnn.param file: type, name, number of inputs and outputs, their names, settings."""
    found = []
    for line in text.splitlines()[2:]:
        operator, name, inputs, outputs, *rest = line.split()
        first, last = int(inputs), int(inputs) + int(outputs)
        settings = dict(word.split("=", 1) for word in rest[last:])
        names = {"name": name, "inputs": rest[:first], "outputs": rest[first:last]}
        found.append({"operator": operator, **names, "settings": settings})
    return found


def values(stem: str, found: list[dict[str, Any]], size: int) -> dict[str, list[float]]:
    """Run the network and return the fingerprint of each blob."""
    net = ncnn.Net()
    for option in ("use_packing_layout", "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "lightmode"):
        setattr(net.opt, option, False)
    net.opt.use_bf16_storage = False
    net.opt.num_threads = 1
    net.load_param(f"{stem}.ncnn.param")
    net.load_model(f"{stem}.ncnn.bin")
    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    pixels = image(size)
    extractor.input("in0", ncnn.Mat(pixels[0]).clone())
    result = {"in0": fingerprint(pixels)}
    for layer in found:
        for name in layer["outputs"]:
            code, blob = extractor.extract(name)
            if not code:
                result[name] = fingerprint(np.array(blob))
    return result


def main() -> None:
    """Convert, run, write."""
    path, size, out = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(path, f"{scratch}/net.pt")
        command = [str(Path(sys.executable).parent / "pnnx"), "net.pt", f"inputshape=[1,3,{size},{size}]", "fp16=0"]
        done = subprocess.run(command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        param = Path(scratch) / "net.ncnn.param"
        if not param.is_file():
            raise SystemExit((done.stdout.strip().splitlines() or ["pnnx wrote nothing"])[-1])
        found = layers(param.read_text())
        Path(out).write_text(json.dumps({"nodes": found, "values": values(f"{scratch}/net", found, int(size))}))


if __name__ == "__main__":
    main()
