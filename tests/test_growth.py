"""What a count takes grows with the operators that run, and not faster: Python's calls at n and at 2 n."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, Callable

import pytest
import torch
from torch import Tensor, nn

from utils.thop import deployed, profile, traffic, training

X = torch.ones(1, 4, 4, 4)


class Repeats(nn.Module):
    """Runs its body n times."""

    def __init__(self, body: Callable[[Tensor, Tensor], Tensor], n: int, ends_with: bool = True) -> None:
        super().__init__()
        self.c, self.body, self.n, self.ends_with = nn.Conv2d(4, 4, 1), body, n, ends_with

    def forward(self, x: Tensor) -> Any:
        y = z = self.c(x)
        kept = []
        for _ in range(self.n):
            z = self.body(z, y)
            kept.append(z)
        return z * y if self.ends_with else kept


BODIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "chain": lambda z, y: torch.relu(z),
    "diamond": lambda z, y: (z + y) * (z - y),
    "wide": lambda z, y: y * 2,
    "constants": lambda z, y: z + torch.arange(4.0),
    "written to": lambda z, y: torch.zeros(4, 4).copy_(z[0, 0]) + z,
    "views": lambda z, y: z.view(1, 4, 16)[:, :, 4:].reshape(1, 4, 3, 4).repeat(1, 1, 2, 1)[:, :, :4],
}


def calls_of(function: Callable[[], Any]) -> int:
    """Count the Python functions that are called."""
    count = 0

    def hear(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    kept = sys.getprofile()
    sys.setprofile(hear)
    try:
        function()
    finally:
        sys.setprofile(kept)
    return count


ASKED: dict[str, Callable[[nn.Module], Any]] = {
    "profile": lambda model: profile(model, (X,), verbose=False),
    "traffic": lambda model: traffic(model, (X,)),
    "tensorrt": lambda model: deployed(model, (X,), "tensorrt"),
    "rknn": lambda model: deployed(model, (X,), "rknn"),
    "training": lambda model: training(model, (X,), amp=False),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("body", BODIES)
def test_calls_grow_with_the_operators(body: str, asked: str) -> None:
    for ends_with in (True, False):
        ASKED[asked](Repeats(BODIES[body], 3, ends_with))
        models = [Repeats(BODIES[body], n, ends_with) for n in (100, 200)]
        small, large = (calls_of(partial(ASKED[asked], model)) for model in models)
        assert large / small < 2.2, (small, large)


def test_a_long_chain_is_no_deep_one() -> None:
    network = deployed(Repeats(BODIES["diamond"], 2000), (X,))
    assert len(network.launches) == 1 and len(network.launches[0].steps) == 6002
