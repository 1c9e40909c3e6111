"""Which operators rknn-toolkit2 leaves to the CPU: a network of a convolution and one operator, built for each chip.

    python benchmarks/compilers/operators.py

Needs the environment that `benchmarks/compilers.py rknn-rk3588` makes. Writes tests/deploy/graphs/rknn-operators.csv, a
row for each operator and chip; a row without either is of a build that failed. Takes a quarter of an hour; what a
stopped run has built is not built again.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable

import torch
from rknn_log import ROW
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
WORK = Path(tempfile.gettempdir()) / "compilers"
CHIPS = ("rk3588", "rk3566")
SIDE = 128
AROUND = ("InputOperator", "OutputOperator", "Reshape")

OPERATORS: dict[str, Callable[[Tensor], Any]] = {  # of a map of 16 channels and 64 x 64
    "abs": torch.abs,
    "amax": lambda y: y.amax(1),
    "argmax": lambda y: y.argmax(1),
    "avg_pool2d 9 x 9": lambda y: functional.avg_pool2d(y, 9, 1),
    "channel_norm": lambda y: functional.normalize(y, dim=1),
    "clamp": lambda y: y.clamp(-1, 1),
    "convolution 11 x 11": nn.Conv2d(16, 16, 11, 1, 5),
    "convolution 31 x 31": nn.Conv2d(16, 16, 31, 1, 15, groups=16),
    "convolution, dilation 24": nn.Conv2d(16, 16, 3, 1, 24, dilation=24),
    "convolution, transposed": nn.ConvTranspose2d(16, 16, 2, 2),
    "copy": lambda y: torch.scatter(y, 1, torch.zeros(1, 1, 64, 64, dtype=torch.long), 1.0),
    "cumsum": lambda y: y.cumsum(-1),
    "div": lambda y: y / (y.sigmoid() + 1),
    "eq": lambda y: (y == y.sigmoid()).float(),
    "erf": torch.erf,
    "exp": torch.exp,
    "gather": lambda y: y[:, torch.tensor([0, 3, 5, 7])],
    "gelu": nn.GELU(),
    "grid_sampler_2d": lambda y: functional.grid_sample(y, y[:, :2].permute(0, 2, 3, 1), align_corners=False),
    "gt": lambda y: torch.where(y > 0, y, y * 2),
    "hardswish": nn.Hardswish(),
    "instance_norm": nn.InstanceNorm2d(16),
    "layer_norm": lambda y: functional.layer_norm(y, [64]),
    "log": lambda y: torch.log(y.sigmoid() + 1),
    "matmul": lambda y: y @ y.transpose(-1, -2),
    "max": lambda y: y.max(1)[0],
    "max_pool2d 13 x 13": lambda y: functional.max_pool2d(y, 13, 1, 6),
    "mean": lambda y: y.mean(1, keepdim=True),
    "mish": nn.Mish(),
    "permute": lambda y: y.permute(0, 2, 3, 1).contiguous(),
    "permute of 5 axes": lambda y: y.view(1, 4, 4, 64, 64).permute(0, 1, 3, 4, 2).contiguous(),
    "pixel_shuffle": lambda y: functional.pixel_shuffle(y, 2),
    "pow": lambda y: y**3,
    "prelu": nn.PReLU(16),
    "scatter": lambda y: torch.scatter(y, 1, torch.zeros(1, 1, 64, 64, dtype=torch.long), 1.0),
    "sin": torch.sin,
    "softmax": lambda y: torch.softmax(y, 1),
    "softmax of 4096": lambda y: torch.softmax(y.flatten(2), -1),
    "sqrt": lambda y: torch.sqrt(y.sigmoid()),
    "strided_slice": lambda y: torch.cat([y[..., ::2, ::2], y[..., 1::2, ::2]], 1),
    "tanh": torch.tanh,
    "topk": lambda y: torch.topk(y, 10, -1)[0],
    "upsample_bilinear2d": lambda y: functional.interpolate(y, scale_factor=2.0, mode="bilinear"),
    "upsample_bilinear2d to 100": lambda y: functional.interpolate(y, size=(100, 100), mode="bilinear"),
    "upsample_bicubic2d": lambda y: functional.interpolate(y, scale_factor=2.0, mode="bicubic"),
    "upsample_nearest2d": lambda y: functional.interpolate(y, scale_factor=2.0),
}


class Network(nn.Module):
    """A convolution, and what is asked about behind it."""

    def __init__(self, behind: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.behind = nn.Conv2d(3, 16, 3, 2, 1), behind

    def forward(self, x: Tensor) -> Any:
        return self.behind(self.first(x))


def built(name: str, chip: str) -> list[tuple[str, str]]:
    """The toolkit's operators of a network and where they run; nothing where it can't build it."""
    folder = WORK / "operators"
    folder.mkdir(parents=True, exist_ok=True)
    plain = re.sub(r"\W+", "_", name)
    log, onnx = folder / f"{plain}.{chip}.log", folder / f"{plain}.onnx"
    if not onnx.exists():
        image = torch.randn(1, 3, SIDE, SIDE)
        torch.onnx.export(Network(OPERATORS[name]).eval(), (image,), str(onnx), opset_version=16, dynamo=False)
    if not log.exists():
        script = Path(__file__).with_name("with_rknn.py")
        command = [str(WORK / "rknn/bin/python"), str(script), str(onnx), str(SIDE), chip, str(log)]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    found = ROW.findall(log.read_text(encoding="utf-8", errors="replace"))
    return [row[:2] for row in found if row[0] not in AROUND]


def main() -> int:
    """Build all of them, and write the table."""
    warnings.simplefilter("ignore")
    with (ROOT / "tests/deploy/graphs/rknn-operators.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["operator", "device", "npu", "cpu"])
        for name in tqdm(OPERATORS):
            for chip in CHIPS:
                rows = built(name, chip)
                where = {kind: " ".join(op for op, target in rows if target == kind) for kind in ("NPU", "CPU")}
                writer.writerow([name, chip, where["NPU"], where["CPU"]])
    return 0


if __name__ == "__main__":
    sys.exit(main())
