"""Products outside of layers, in subclasses, and of operators that PyTorch's registry lacks: each by hand."""

from typing import Any, Tuple

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from utils.thop import profile, traffic
from utils.thop.profile import Profile

X = torch.rand(1, 32, 16, 16)
MAPS = 16 * 16


def count(model: nn.Module, *inputs: Any, **kwargs: Any) -> Profile:
    """Count without values and for real: both must say the same."""
    counted = profile(model, inputs, verbose=False, kwargs=kwargs)
    assert counted.mode == "shape", counted.why

    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            first = args[0] if args else next(iter(kwargs.values()))
            return self.inner(*args, **kwargs) if float(first.sum()) == float(first.sum()) else first

    real = profile(Asks(), inputs, verbose=False, kwargs=kwargs)
    assert real.mode == "real" and tuple(real) == tuple(counted)
    return counted


# ---- convolutions and matrix products outside of layers ----


class Merged(nn.Module):
    """Two branches merged into one filter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.a.weight + F.pad(self.b.weight, (1,) * 4), padding=1)


def test_a_merged_convolution() -> None:
    counted = count(Merged(), X)
    assert (counted.total_ops, counted.total_kernel_macs, counted.total_output_macs) == (
        32 * 32 * 9 * MAPS, 32 * 32 * 9, 32 * MAPS,
    )  # fmt: skip
    assert counted.missing == {} and counted.root.ops == counted.total_ops


def test_dynamic_filters_and_correlation() -> None:
    class Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make = nn.Linear(32, 4 * 32)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.make(x.mean((2, 3))).view(4, 32, 1, 1))

    class Siamese(nn.Module):
        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return F.conv2d(x, z)

    counted = count(Dynamic(), X)
    assert counted.total_ops == 32 * 128 + 4 * 32 * MAPS
    assert counted.total_kernel_macs == 32 * 128 + 4 * 32 and counted.total_output_macs == 128 + 4 * MAPS
    counted = count(Siamese(), X, torch.rand(1, 32, 4, 4))
    assert counted.total_ops == 13 * 13 * 32 * 16 and counted.total_kernel_macs == 32 * 16


def test_a_tied_embedding_reads_its_kernel() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb = nn.Embedding(100, 32)

        def forward(self, i: Tensor) -> Tensor:
            return F.linear(self.emb(i), self.emb.weight)

    counted = profile(Tied(), (torch.arange(5).view(1, 5),), verbose=False)
    assert counted.total_ops == 5 * 32 * 100
    assert counted.total_kernel_macs == 5 * 32 + 3200 and counted.total_output_macs == 5 * 32 + 500


def test_attention_by_hand_has_no_kernel() -> None:
    class Attends(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return (q @ q.transpose(1, 2)).softmax(-1) @ q

    counted = count(Attends(), torch.rand(2, 5, 8))
    assert (counted.total_ops, counted.total_kernel_macs) == (2 * (5 * 5 * 8) * 2, 0)
    assert counted.total_output_macs == 2 * (5 * 5 + 5 * 8)


@pytest.mark.skipif(torch.__version__ < "2.1", reason="torchvision has no meta kernel for it")
def test_a_deformable_convolution() -> None:
    class Deforms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Conv2d(32, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torchvision.ops.deform_conv2d(x, x.new_zeros(1, 18, 16, 16), self.part.weight, padding=1)

    counted = count(Deforms(), X)
    assert counted.total_ops == 8 * MAPS * 32 * 9 and counted.total_kernel_macs == 8 * 32 * 9


# ---- subclasses with a forward of their own ----


class Lora(nn.Linear):
    def __init__(self) -> None:
        super().__init__(32, 16)
        self.down, self.up = nn.Parameter(torch.rand(4, 32)), nn.Parameter(torch.rand(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(F.linear(x, self.down), self.up)


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


class Alone(nn.LSTM):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[0]


def test_a_subclass_is_counted_by_what_it_runs() -> None:
    counted = count(Lora(), torch.rand(5, 32))
    assert counted.total_ops == 5 * (32 * 16 + 32 * 4 + 4 * 16)
    assert counted.total_kernel_macs == 32 * 16 + 32 * 4 + 4 * 16
    assert count(Twice(32, 32, 1), X).total_ops == 2 * 32 * 32 * MAPS
    counted = count(Alone(8, 16), torch.rand(5, 2, 8))
    assert counted.total_output_macs == 5 * 2 * 16 and counted.total_kernel_macs == 4 * 16 * (8 + 16)


def test_a_subclass_without_a_forward_keeps_its_rule() -> None:
    class Same(nn.Conv2d):
        pass

    assert tuple(count(Same(32, 8, 1), X)) == tuple(count(nn.Conv2d(32, 8, 1), X))
    layer_norm = torchvision.models.convnext.LayerNorm2d(32)
    assert count(layer_norm, X).total_output_macs == X.numel()


def test_a_rule_that_does_not_fit_is_named_and_the_rest_is_counted() -> None:
    pair = nn.Linear(8, 8)
    pair.register_forward_hook(lambda m, x, y: (y, y))
    model = nn.Sequential(nn.Linear(8, 8), pair, nn.Identity())
    counted = profile(model, (torch.rand(2, 8),), verbose=False)
    assert counted.total_kernel_macs >= 64
    attention = nn.MultiheadAttention(8, 2)

    class OneTensor(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x, x, x, need_weights=False)[0]

    counted = count(OneTensor(8, 2), torch.rand(5, 2, 8))
    products = 10 * 8 * 24 + 10 * 8 * 8 + 2 * 2 * 2 * 5 * 5 * 4
    assert counted.total_ops == products and counted.total_kernel_macs == 4 * 64
    assert profile(attention, (torch.rand(5, 2, 8),) * 3, verbose=False).total_kernel_macs == 4 * 64


# ---- what modules without a rule are ----


class Scales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(32, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma + x.mean((2, 3), keepdim=True)


class Permutes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)])


class Transforms(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x).abs()


class Pools(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2)


def test_a_leaf_is_what_its_operators_make_it() -> None:
    assert count(Scales(), X).total_output_macs == X.numel() and not count(Scales(), X).missing
    moved = count(Permutes(), X)
    assert moved.total_output_macs == 0 and not moved.missing and len(moved.only_moved) == 1
    assert len(count(Pools(), X).missing) == 1
    (name,) = count(Transforms(), X).missing
    assert "Transforms" in name and "fft" in name
    assert any("fft" in operator for operator in traffic(Transforms(), (X,)).uncounted)


# ---- operators that PyTorch's registry lacks ----


class Calls(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


A, V, B = torch.rand(4, 6), torch.rand(6), torch.rand(3, 4, 6)
PRODUCTS = {
    "mv": (torch.mv, (A, V), 4 * 6),
    "dot": (torch.dot, (V, V), 6),
    "vdot": (torch.vdot, (V, V), 6),
    "addmv": (torch.addmv, (torch.rand(4), A, V), 4 * 6),
    "addbmm": (torch.addbmm, (torch.rand(4, 4), B, B.transpose(1, 2).contiguous()), 3 * 4 * 4 * 6),
    "cdist": (torch.cdist, (A, A), 4 * 4 * 6),
    "bilinear": (F.bilinear, (A, A, torch.rand(5, 6, 6)), 4 * 5 * (6 + 1) * 6),
    "einsum": (lambda a, b: torch.einsum("ij,kj->ik", a, b), (A, A), 4 * 4 * 6),
    "conv_tbc": (lambda x, w: torch.conv_tbc(x, w, torch.zeros(5)), (torch.rand(7, 2, 4), torch.rand(3, 4, 5)),
                 5 * 2 * 5 * 3 * 4),
}  # fmt: skip
if hasattr(torch, "_int_mm"):
    eights = torch.ones(32, 8, dtype=torch.int8), torch.ones(8, 16, dtype=torch.int8)
    PRODUCTS["int_mm"] = (lambda a, b: torch._int_mm(a, b), eights, 32 * 8 * 16)


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_formula_of_our_own(name: str) -> None:
    function, inputs, products = PRODUCTS[name]
    counted, moved = profile(Calls(function), inputs, verbose=False), traffic(Calls(function), inputs)
    assert counted.total_ops == products and moved.flops == 2 * products
    assert counted.missing == {} and moved.uncounted == {}


def test_a_users_formula_serves_both_ledgers() -> None:
    counter = pytest.importorskip("torch.utils.flop_counter", reason="torch before 2.1")
    library = torch.library.Library("memory_access_test", "DEF")
    library.define("triple(Tensor x) -> Tensor")
    library.impl("triple", lambda x: x * 3, "CompositeExplicitAutograd")
    operator = torch.ops.memory_access_test.triple
    unknown = traffic(Calls(operator), (A,))
    assert unknown.flops == 0 and any("triple" in name for name in unknown.uncounted)
    assert any("triple" in name for name in profile(Calls(operator), (A,), verbose=False).missing)

    @counter.register_flop_formula(operator)
    def _triple(x_shape: Tuple[int, ...], *args: Any, **kwargs: Any) -> int:
        return 2 * 1000

    assert traffic(Calls(operator), (A,)).flops == 2000
    assert profile(Calls(operator), (A,), verbose=False).total_ops == 1000

    library.define("odd(Tensor x) -> Tensor")
    library.impl("odd", lambda x: x * 3, "CompositeExplicitAutograd")
    operator = torch.ops.memory_access_test.odd

    @counter.register_flop_formula(operator)
    def _fails(x_shape: Tuple[int, ...], *args: Any, **kwargs: Any) -> int:
        raise LookupError("of the user's")

    assert any("of the user's" in what for _, what in traffic(Calls(operator), (A,)).uncounted.values())
    assert any("of the user's" in name for name in profile(Calls(operator), (A,), verbose=False).missing)


@pytest.mark.parametrize("kind, gates", [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_a_recurrent_layer_is_one_operator(kind: Any, gates: int) -> None:
    network, x = kind(8, 16, 2, bidirectional=True), torch.rand(50, 3, 8)
    moved = traffic(network, (x,))
    assert moved.mode == "shape"
    weights = 2 * gates * 16 * ((8 + 16) + (32 + 16))
    assert moved.flops == 2 * 150 * weights
    (row,) = [row for row in moved.operators if row.flops]
    states = (2 if kind is nn.LSTM else 1) * 4 * 3 * 16
    parameters = sum(p.numel() for p in network.parameters())
    assert row.read_bytes == 4 * (x.numel() + parameters + states)
    assert row.written_bytes == 4 * (150 * 32 + states)


@pytest.mark.skipif(torch.__version__ < "2.1", reason="CPUs have no fused attention")
def test_attention_that_is_not_fused_pays_for_its_matrix() -> None:
    fused, unfused = torch.rand(2, 3, 64, 8), torch.rand(3, 64, 8)
    attend = nn.functional.scaled_dot_product_attention
    rows = [row.operator for row in traffic(Calls(lambda q: attend(q, q, q)), (fused,)).operators if row.bytes]
    assert rows == ["scaled_dot_product_attention"]
    moved = traffic(Calls(lambda q: attend(q, q, q)), (unfused,))
    assert moved.flops == 2 * 2 * 3 * 64 * 64 * 8
    assert ("bmm" in {row.operator for row in moved.operators}) == (moved.written_bytes > 4 * 3 * 64 * 64)


def test_overlapping_windows_are_read_once() -> None:
    x = torch.rand(2, 32, 32)
    moved = traffic(Calls(lambda x: x.unfold(1, 7, 1).unfold(2, 7, 1).sum()), (x,))
    assert moved.read_bytes <= x.numel() * 4


@pytest.mark.skipif(not hasattr(torch, "func"), reason="torch before 2.0")
def test_vmap_counts_every_sample() -> None:
    layer = nn.Linear(8, 4)

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return torch.func.vmap(self.layer)(x)

    counted = profile(Maps(), (torch.rand(6, 8),), verbose=False)
    assert counted.total_ops == 6 * 8 * 4 and counted.total_output_macs == 6 * 4


def test_sparse_products_and_masks() -> None:
    sparse = torch.eye(6).to_sparse()
    moved = traffic(Calls(lambda a: torch.sparse.mm(sparse, a)), (torch.rand(6, 4),))
    assert moved.read_bytes > 0
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    counted = profile(encoder, (torch.rand(2, 5, 8),), kwargs={"src_key_padding_mask": mask}, verbose=False)
    assert counted.total_kernel_macs == 2 * (4 * 64 + 2 * 8 * 16)


def test_keyword_arguments() -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(8, 4)

        def forward(self, x: Tensor, *, mask: Any = None, options: Any = None) -> Any:
            return {"out": self.l(x) if mask is None else self.l(x[:, : mask.shape[1]]), "none": None}

    mask = torch.ones(2, 3)
    counted = count(Takes(), torch.rand(2, 5, 8), mask=mask, options={"a": None})
    assert counted.total_output_macs == 2 * 3 * 4
    assert traffic(Takes(), (torch.rand(2, 5, 8),), kwargs={"mask": mask}).flops == 2 * 2 * 3 * 32
    assert profile(Takes(), (), kwargs={"x": torch.rand(2, 5, 8)}, verbose=False).total_output_macs == 2 * 5 * 4


def test_what_only_checks_costs_nothing() -> None:
    class Checks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            torch._assert_async((x >= x).any())
            return self.linear(x)

    counted, moved = profile(Checks(), (torch.zeros(2, 4),), verbose=False), traffic(Checks(), (torch.zeros(2, 4),))
    assert (counted.missing, moved.uncounted) == ({}, {}) and counted[:4] == (32, 16, 16, 8)


A, B = torch.rand(2, 5, 7), torch.rand(2, 5, 7)
LOSS = nn.CosineEmbeddingLoss()


@pytest.mark.parametrize(
    "function, operands, products",
    [
        (torch.linalg.vecdot, (A, B), 2 * 5 * 7),
        (lambda a, b: torch.linalg.vecdot(a, b, dim=1), (A, B), 2 * 7 * 5),
        (torch.linalg.vecdot, (A[:, :, None], B[:, None]), 2 * 5 * 5 * 7),
        (lambda a, b: F.cosine_similarity(a, b, dim=-1), (A[:, :, None], B[:, None]), 2 * 5 * 5 * 7),
        (lambda a, b: torch.cosine_similarity(x1=a, x2=b), (A, B), 2 * 7 * 5),
        (lambda a, b: torch.ops.aten.cosine_similarity(a, b), (A, B), 2 * 7 * 5),
        (lambda a, b: torch.ops.aten.linalg_vecdot.default(a, b), (A, A), 2 * 5 * 7),
        (lambda a, b: F.cosine_embedding_loss(a[0], b[0], torch.ones(5)), (A, A), 5 * 7),
        (lambda a, b: LOSS(a[0], b[0], torch.ones(5)), (A, A), 5 * 7),
        (nn.CosineSimilarity(-1), (A, B), 2 * 5 * 7),
        (lambda a, b: torch.einsum("bij,bij->b", a, b), (A, B), 2 * 5 * 7),
        (lambda a, b: torch.einsum("bij,bkj->bik", a, b), (A, B), 2 * 5 * 5 * 7),
        (lambda theta: F.affine_grid(theta, [2, 3, 4, 6], align_corners=False), (torch.rand(2, 2, 3),), 48 * 2 * 3),
        (lambda theta: F.affine_grid(theta, [1, 3, 2, 4, 6], align_corners=True), (torch.rand(1, 3, 4),), 48 * 3 * 4),
        (torch.outer, (A[0, 0], B[0, 0]), 0),
        (lambda a, b: torch.einsum("i,j->ij", a, b), (A[0, 0], B[0, 0]), 0),
        (lambda a, b: torch.einsum("bi,bj->bij", a, b), (A[0], B[0]), 0),
        (lambda a, b: (a * b).sum(-1), (A, B), 0),
    ],
)
@pytest.mark.parametrize("needs_values", [False, True])
def test_what_sums_over_an_index_is_a_product(function: Any, operands: Any, products: int, needs_values: bool) -> None:
    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = function

        def forward(self, *operands: Tensor) -> Any:
            if needs_values and float(operands[0].sum()) < 0:
                return None
            return self.function(*operands)

    counted, moved = profile(Uses(), operands, verbose=False), traffic(Uses(), operands)
    assert counted.mode == moved.mode == ("real" if needs_values else "shape")
    assert counted.total_ops == products and moved.flops == 2 * products and counted.missing == {}


def test_arithmetic_in_numpy_is_named() -> None:
    class Leaves(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.from_numpy(a.numpy() @ b.numpy())

    counted = profile(nn.Sequential(nn.Identity()), (A,), verbose=False)
    assert counted.missing == {}
    counted = profile(Leaves(), (A[0], B[0].T), verbose=False)
    (name,) = counted.missing
    assert counted.mode == "real" and "Leaves (values go to numpy" in name and counted.missing[name] == 2


# ---- what no layer rule counts ----


class Beside(nn.Module):
    """A function beside a layer; by itself it is a leaf."""

    def __init__(self, function: Any, layer: bool) -> None:
        super().__init__()
        self.function, self.layer = function, nn.Conv2d(4, 4, 1) if layer else None

    def forward(self, x: Tensor) -> Any:
        return self.function(x if self.layer is None else self.layer(x))


@pytest.mark.parametrize(
    ("operator", "function"),
    [
        ("aten::sort", lambda x: x.sort(-1)[0]),
        ("aten::topk", lambda x: x.flatten(1).topk(5)[0]),
        ("aten::cumsum", lambda x: x.cumsum(1)),
        ("aten::cumprod", lambda x: torch.cumprod(x, 1)),
        ("aten::grid_sampler_2d", lambda x: F.grid_sample(x, torch.zeros(2, 5, 5, 2), align_corners=False)),
        ("aten::nll_loss2d_forward", lambda x: F.cross_entropy(x, torch.zeros(2, 8, 8, dtype=torch.long))),
        ("torchvision::roi_align", lambda x: torchvision.ops.roi_align(x, [torch.zeros(1, 4)] * 2, 3)),
        ("aten::histc", torch.histc),
    ],
)
def test_what_no_layer_rule_counts_is_named_in_any_forward(operator: str, function: Any) -> None:
    x = torch.rand(2, 4, 8, 8)
    (name,) = profile(Beside(function, layer=True), (x,), verbose=False).missing
    assert name.endswith(f"Beside ({operator})")
    leaf = profile(Beside(function, layer=False), (x,), verbose=False)
    assert leaf.missing or leaf.total_output_macs == x.numel()  # a leaf of sums along an axis is an activation


@pytest.mark.parametrize("function", [F.relu, lambda x: x + x, lambda x: x.flatten(1), lambda x: torch.cat((x, x))])
def test_what_is_free_between_layers_is_not_named(function: Any) -> None:
    assert profile(Beside(function, layer=True), (torch.rand(2, 4, 8, 8),), verbose=False).missing == {}
