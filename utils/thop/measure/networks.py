"""Five small networks that tell a device's constants apart, of what detectors and classifiers are made of.

Each has something that the others lack: products of many channels, large maps with few, depthwise products and scaled
channels, the parts of a YOLO's neck, and many launches that are hardly worth starting.
"""

from typing import Any, Callable, Dict, List, Tuple

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, act: Any = nn.SiLU, norm: bool = False,
          groups: int = 1) -> nn.Module:  # fmt: skip
    conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=not norm)
    in_place = {"inplace": True} if act in (nn.SiLU, nn.ReLU, nn.ReLU6) else {}  # as detectors and classifiers have it
    return nn.Sequential(conv, *([nn.BatchNorm2d(outputs)] if norm else []), act(**in_place))


class _With(nn.Module):
    """What a branch makes, put together with what it is made of."""

    def __init__(self, together: Callable[[Tensor, Tensor], Tensor], *branch: nn.Module) -> None:
        super().__init__()
        self.together, self.branch = together, nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return self.together(x, self.branch(x))


class _Grown(nn.Module):
    """Parts, to which a branch adds what it makes of the last one, several times; all of them concatenated."""

    def __init__(self, parts: int, times: int, branch: nn.Module) -> None:
        super().__init__()
        self.parts, self.times, self.branch = parts, times, branch

    def forward(self, x: Tensor) -> Tensor:
        parts = list(x.chunk(self.parts, 1)) if self.parts > 1 else [x]
        for _ in range(self.times):
            parts.append(self.branch(parts[-1]))
        return torch.cat(parts, 1)


def _split(channels: int) -> nn.Module:
    grown = _Grown(2, 1, _With(torch.add, _conv(channels // 2, channels // 2, 3)))
    return nn.Sequential(_conv(channels, channels, 1), grown, _conv(3 * channels // 2, channels, 1))


def _neck() -> nn.Module:
    """Two scales, pooled, resized and concatenated."""
    pooled = _Grown(1, 3, nn.MaxPool2d(5, 1, 2))
    deep = _conv(64, 128, 3, 2), pooled, _conv(512, 128, 1), nn.Upsample(scale_factor=2.0)
    stem = _conv(3, 32, 6, 2), _conv(32, 64, 3, 2), _split(64), _conv(64, 64, 3, 2)
    both = _With(lambda x, up: torch.cat([up, x], 1), *deep)
    return nn.Sequential(*stem, both, _conv(192, 64, 1), _split(64), nn.Conv2d(64, 85, 1))


def _inverted(inputs: int, outputs: int, kernel: int, stride: int, scaled: bool) -> nn.Module:
    inner, act = 6 * inputs, nn.SiLU if scaled else nn.ReLU6
    gate = nn.AdaptiveAvgPool2d(1), _conv(inner, inner // 16, 1), _conv(inner // 16, inner, 1, act=nn.Sigmoid)
    parts = [
        _conv(inputs, inner, 1, 1, act, True), _conv(inner, inner, kernel, stride, act, True, inner),
        *([_With(torch.mul, *gate)] if scaled else []), _conv(inner, outputs, 1, 1, nn.Identity, True),
    ]  # fmt: skip
    return _With(torch.add, *parts) if inputs == outputs and stride == 1 else nn.Sequential(*parts)


def _wide(channels: int) -> List[nn.Module]:
    down = [_conv(channels // 2, channels, 3, 2, nn.ReLU, True)] if channels > 64 else []
    return [*down, _With(torch.add, _conv(channels, channels, 3, 1, nn.ReLU, True))]


def five_networks() -> Dict[str, Tuple[nn.Module, int]]:
    """Build the networks, by what they have most of, each with the side of its image; no random number is drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wide = [part for channels in (64, 128, 256, 512) for part in _wide(channels)]
        fine = [_conv(3, 16, 3, 2), _conv(16, 32, 1), _With(torch.add, _conv(32, 32, 1)), _conv(32, 16, 1),
                _conv(16, 32, 3, 2), _conv(32, 64, 1), _With(torch.add, _conv(64, 32, 1), _conv(32, 64, 1)),
                _conv(64, 32, 1), nn.AdaptiveAvgPool2d(1)]  # fmt: skip
        apart = [(16, 24, 3, 2, False), (24, 24, 3, 1, False), (24, 40, 5, 2, True), (40, 40, 5, 1, True),
                 (40, 80, 3, 2, False), (80, 80, 3, 1, True), (80, 160, 5, 2, True),
                 (160, 160, 3, 1, False)]  # fmt: skip
        short = [_With(torch.add, _conv(32, 32, 3), _conv(32, 32, 1)) for _ in range(32)]
        head = nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 1000)
        found: Dict[str, Tuple[nn.Module, int]] = {
            "wide 3 x 3": (nn.Sequential(_conv(3, 64, 7, 2, nn.ReLU, True), nn.MaxPool2d(3, 2, 1), *wide), 224),
            "large maps": (nn.Sequential(*fine), 352),
            "depthwise": (nn.Sequential(_conv(3, 16, 3, 2), *(_inverted(*sizes) for sizes in apart)), 224),
            "neck": (_neck(), 320),
            "short launches": (nn.Sequential(_conv(3, 32, 3, 4), *short, *head), 64),
        }
        for module in (m for network, _ in found.values() for m in network.eval().modules()):
            if isinstance(module, (nn.Conv2d, nn.Linear)):  # numbers that come close to 0 are slow on some CPUs
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    return found
