"""Models that are spread over processes are refused in one line, and no collective is run."""

import importlib.util
from typing import Any, Iterator

import pytest
import torch
from torch import Tensor, nn

from utils.thop import profile, traffic
from utils.thop.run import NotCountable
from utils.thop.show.summary import show_summary

distributed = pytest.importorskip("torch.distributed")
needs_fully_shard = pytest.mark.skipif(
    not hasattr(importlib.import_module("torch.distributed.fsdp"), "fully_shard"), reason="torch without fully_shard"
)
X = torch.rand(2, 8)


@pytest.fixture
def process_group(tmp_path: Any) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def sharded(kind: str) -> nn.Module:
    if kind == "fsdp":
        from torch.distributed.fsdp import FullyShardedDataParallel

        return nn.Sequential(FullyShardedDataParallel(mlp(), device_id=torch.device("cpu")))
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (1,))
    if kind == "fully_shard":
        from torch.distributed.fsdp import fully_shard

        model = mlp()
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    return parallelize_module(mlp(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


class NeedsValues(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if bool((x == x).all()) else x


needs_a_mesh = pytest.mark.skipif(
    not importlib.util.find_spec("torch.distributed.device_mesh"), reason="torch before 2.2"
)
KINDS = ["fsdp", pytest.param("fully_shard", marks=needs_fully_shard), "tensor parallel"]


@needs_a_mesh  # before, FSDP needs a GPU
@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_model_is_refused_and_nothing_is_sent(
    kind: str, process_group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sharded(kind)
    sent = []
    for name in ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast"):
        monkeypatch.setattr(torch.distributed, name, lambda *a, name=name, **k: sent.append(name))
    parameters = [id(p) for p in model.parameters()]
    for counted in (model, NeedsValues(model)):
        for count in (lambda m: profile(m, (X,), verbose=False), lambda m: traffic(m, (X,))):
            with pytest.raises(NotCountable, match="before it is") as refused:
                count(counted)
            assert "\n" not in str(refused.value)
    assert sent == [] and [id(p) for p in model.parameters()] == parameters


@needs_fully_shard
def test_the_summary_line_says_why(process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    lines: list = []  # type: ignore[type-arg]
    show_summary(None, lines.append, model, (False, 64), {})
    assert len(lines) == 1 and "not counted" in lines[0] and "DTensor" in lines[0]


def test_data_parallel_wrappers_are_taken_off(process_group: None) -> None:
    inner = mlp()
    expected = profile(inner, (X,), verbose=False)[:4]
    assert profile(nn.parallel.DistributedDataParallel(inner), (X,), verbose=False)[:4] == expected
