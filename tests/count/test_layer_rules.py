"""Every rule of a layer: against the reference package, against a real forward pass, and by hand."""

import inspect
from typing import Any, Tuple

import pytest
import thop as reference
import torch
from layers import examples, name_of
from torch import nn

from utils.thop import profile, register_hooks
from utils.thop.count.layer_rules import count_convNd, count_nothing, elements, find_hook

NOT_IN_ANY_FAMILY = {
    "Container", "Module", "CosineSimilarity", "PairwiseDistance",
    "RNNBase", "RNNCellBase",  # abstract
    "Transformer", "TransformerDecoder", "TransformerDecoderLayer",  # made of layers that are counted
    "TransformerEncoder", "TransformerEncoderLayer",
}  # fmt: skip

every_example = pytest.mark.parametrize("index", range(len(examples())), ids=map(name_of, examples()))


@every_example
def test_operations_equal_the_reference(index: int) -> None:
    layer, inputs = examples()[index]
    counted = profile(layer, inputs, verbose=False).total_ops
    assert counted == reference.profile(layer, inputs, verbose=False)[0]


@every_example
def test_accesses_equal_a_real_forward_pass(index: int) -> None:
    layer, inputs = examples()[index]
    counted = profile(layer, inputs, verbose=False)
    result: Any = layer.eval()(*inputs)
    hook = find_hook(type(layer))
    if hook is count_nothing:
        expected = (0, 0)
    elif isinstance(layer, (nn.RNNBase, nn.LSTMCell, nn.MultiheadAttention)):
        expected = weights(layer), elements(result[0])
    elif isinstance(layer, nn.EmbeddingBag):
        expected = inputs[0].numel() * layer.embedding_dim, result.numel()
    elif isinstance(layer, nn.Embedding):
        expected = result.numel(), result.numel()
    elif "Norm" in type(layer).__name__ or isinstance(layer, nn.PReLU):
        expected = 0, elements(result)
    else:
        expected = weights(layer), elements(result)
    assert (counted.total_kernel_macs, counted.total_output_macs) == expected
    assert not counted.missing


def weights(layer: nn.Module) -> int:
    """Elements of all parameters with two axes or more, which in these layers are the weights."""
    return sum(p.numel() for name, p in layer.named_parameters() if p.dim() > 1 and "bias" not in name)


def test_every_class_of_torch_nn_has_a_rule_or_a_reason() -> None:
    classes = {n: c for n, c in vars(nn.modules).items() if inspect.isclass(c) and issubclass(c, nn.Module)}
    without = {n for n, c in classes.items() if find_hook(c) is None and not n.endswith(("Loss", "Loss2d"))}
    assert without == NOT_IN_ANY_FAMILY & set(classes)


def test_every_rule_has_an_example() -> None:
    shown = {find_hook(type(layer)) for layer, _ in examples()}
    assert set(register_hooks.values()) == shown


def test_lazy_layers_are_counted_after_they_have_taken_shape() -> None:
    layer = nn.LazyConv2d(4, 3)
    counted = profile(layer, (torch.rand(1, 5, 8, 8),), verbose=False)
    assert counted.total_kernel_macs == 4 * 5 * 9
    assert layer.has_uninitialized_params()


def test_a_hook_adds_to_the_four_buffers() -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2)
    for name in ("total_ops", "total_params", "total_kernel_macs", "total_output_macs"):
        layer.register_buffer(name, torch.zeros(1, dtype=torch.float64))
    handle = layer.register_forward_hook(count_convNd)
    layer(torch.rand(1, 4, 5, 5))
    handle.remove()
    sums = layer.total_ops.item(), layer.total_kernel_macs.item(), layer.total_output_macs.item()
    # 6 x 3 x 3 outputs, each the sum of 2 x 3 x 3 products; 6 filters of that size
    assert sums == (54 * 18, 6 * 18, 54)


def by_hand() -> Tuple[Tuple[nn.Module, Any, Tuple[int, int, int]], ...]:
    return (
        (nn.Conv2d(3, 8, 3, 2, 1), (1, 3, 32, 32), (8 * 16 * 16 * 27, 8 * 27, 8 * 16 * 16)),
        (nn.Conv2d(8, 8, 3, groups=8), (1, 8, 5, 5), (8 * 9 * 9, 8 * 9, 8 * 9)),
        (nn.ConvTranspose2d(4, 2, 2, 2), (1, 4, 3, 3), (4 * 9 * 2 * 4, 4 * 2 * 4, 2 * 36)),
        (nn.BatchNorm2d(8), (2, 8, 4, 4), (4 * 256, 0, 256)),
        (nn.Linear(10, 4), (3, 10), (3 * 40, 40, 12)),
        (nn.AvgPool2d(2), (1, 1, 4, 4), (16 + 4, 0, 4)),
        (nn.AdaptiveAvgPool2d(1), (1, 3, 4, 4), (48 + 3, 0, 3)),
        (nn.Upsample(scale_factor=2), (1, 2, 3, 3), (0, 0, 72)),
    )


@pytest.mark.parametrize("layer, shape, cost", by_hand(), ids=lambda value: str(value))
def test_worked_by_hand(layer: nn.Module, shape: Any, cost: Tuple[int, int, int]) -> None:
    ops, _, kernel, output = profile(layer, (torch.rand(shape),), verbose=False)
    assert (ops, kernel, output) == cost


def test_an_unknown_mode_is_named_and_its_output_counted() -> None:
    class Odd(nn.Upsample):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.interpolate(x, scale_factor=2)

    counted = profile(Odd(scale_factor=2, mode="lanczos"), (torch.rand(1, 1, 2, 2),), verbose=False)
    assert counted.total_output_macs == 16
    assert any("lanczos" in name for name in counted.missing)
