"""One example or more of every layer of torch.nn that has a counting rule, each with inputs it can be called with."""

from typing import Any, Dict, List, Tuple

import torch
import torchvision
from torch import nn

from utils.thop.run import blank

Example = Tuple[nn.Module, Tuple[Any, ...]]


def torchvision_network(name: str, device: str = "cpu", **options: Any) -> nn.Module:
    """Build a network of torchvision whose values are all 0: to draw random ones takes longer than to run it."""
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, **options}
    with blank():
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    for module in model.modules():
        for key, held in module._parameters.items():
            if held is not None:
                module._parameters[key] = nn.Parameter(torch.zeros(held.shape, device=device))
        for key, held in module._buffers.items():
            if held is not None:
                module._buffers[key] = torch.zeros(held.shape, dtype=held.dtype, device=device)
    return model


def _image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape)


def _exists(name: str) -> bool:
    return hasattr(nn, name)


def _convolutions() -> List[Example]:
    examples: List[Example] = []
    for axes in (1, 2, 3):
        x = _image(2, 8, *(9, 10, 11)[:axes])
        for lazy in ("", "Lazy"):
            inputs = () if lazy else (8,)
            conv = getattr(nn, f"{lazy}Conv{axes}d")
            transposed = getattr(nn, f"{lazy}ConvTranspose{axes}d")
            examples += [
                (conv(*inputs, 12, 3, stride=2, padding=1, groups=4), (x,)),
                (conv(*inputs, 12, 2, dilation=2, bias=False), (x,)),
                (transposed(*inputs, 12, 3, stride=2, padding=1, output_padding=1, groups=4), (x,)),
            ]
    examples.append((nn.Conv2d(8, 4, (1, 3), padding="same"), (_image(8, 9, 10),)))
    return examples


def _norms() -> List[Example]:
    examples: List[Example] = []
    for axes in (1, 2, 3):
        x = _image(2, 8, *(5, 6, 7)[:axes])
        for name, arguments in (("BatchNorm", {}), ("BatchNorm", {"affine": False}), ("InstanceNorm", {})):
            examples.append((getattr(nn, f"{name}{axes}d")(8, **arguments), (x,)))
            examples.append((getattr(nn, f"Lazy{name}{axes}d")(**arguments), (x,)))
        examples.append((getattr(nn, f"InstanceNorm{axes}d")(8, affine=True), (x,)))
    x = _image(2, 8, 5, 6)
    examples += [
        *([(nn.SyncBatchNorm(8), (x,))] if torch.__version__ >= "2" else []),  # before, it runs on GPUs alone
        (nn.GroupNorm(2, 8), (x,)),
        (nn.GroupNorm(2, 8, affine=False), (x,)),
        (nn.LayerNorm([5, 6]), (x,)),
        (nn.LayerNorm(6, elementwise_affine=False), (x,)),
        (nn.LocalResponseNorm(2), (x,)),
        (nn.CrossMapLRN2d(2), (x,)),
    ]
    if _exists("RMSNorm"):
        examples += [(nn.RMSNorm(6), (x,)), (nn.RMSNorm(6, elementwise_affine=False), (x,))]
    return examples


_ACTIVATION_ARGUMENTS: Dict[str, Tuple[Any, ...]] = {"Threshold": (0.1, 20)}
ACTIVATIONS = (
    "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid",
    "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU6", "RReLU", "SELU", "SiLU", "Sigmoid", "Softmax", "Softmin",
    "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Threshold",
)  # fmt: skip


def _activations() -> List[Example]:
    x = _image(2, 8, 5, 6)
    examples: List[Example] = [(getattr(nn, a)(*_ACTIVATION_ARGUMENTS.get(a, ())), (x,)) for a in ACTIVATIONS]
    examples += [
        (nn.Softmax2d(), (x,)),
        (nn.Softmax2d(), (x[0],)),
        (nn.Softmax(dim=1), (x,)),
        (nn.LogSoftmax(dim=-1), (x[0, 0, 0],)),
        (nn.ReLU(inplace=True), (x.clone(),)),
        (nn.SiLU(inplace=True), (x.clone(),)),
        (nn.PReLU(8), (x,)),
    ]
    return examples


def _pools() -> List[Example]:
    examples: List[Example] = []
    for axes in (1, 2, 3):
        x = _image(2, 4, *(9, 10, 11)[:axes])
        output: Any = (3, 4, 5)[:axes]
        avg, max_ = getattr(nn, f"AvgPool{axes}d"), getattr(nn, f"MaxPool{axes}d")
        examples += [
            (avg(3), (x,)),
            (avg(3, stride=2, padding=1), (x,)),
            (avg(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False), (x,)),
            (avg(2, ceil_mode=True), (x[0],)),
            (max_(3, stride=2, padding=1), (x,)),
            (max_(2, return_indices=True), (x,)),
            (getattr(nn, f"AdaptiveAvgPool{axes}d")(output), (x,)),
            (getattr(nn, f"AdaptiveAvgPool{axes}d")(1), (x,)),
            (getattr(nn, f"AdaptiveMaxPool{axes}d")(output), (x,)),
            (getattr(nn, f"MaxUnpool{axes}d")(2), max_(2, return_indices=True)(_image(2, 4, *(8, 8, 8)[:axes]))),
        ]
        if _exists(f"LPPool{axes}d"):
            examples.append((getattr(nn, f"LPPool{axes}d")(2, 3), (x,)))
        if axes > 1:
            examples.append((getattr(nn, f"FractionalMaxPool{axes}d")(2, output_size=output), (x,)))
    return examples


def _rearrangements() -> List[Example]:
    examples: List[Example] = []
    for axes in (1, 2, 3):
        x = _image(2, 4, *(5, 6, 7)[:axes])
        for kind in ("Reflection", "Replication", "Zero", "Circular"):
            if _exists(f"{kind}Pad{axes}d"):
                examples.append((getattr(nn, f"{kind}Pad{axes}d")(1), (x,)))
        examples.append((getattr(nn, f"ConstantPad{axes}d")(2, 0.5), (x,)))
    x = _image(2, 8, 6, 6)
    examples += [
        (nn.PixelShuffle(2), (x,)),
        (nn.PixelUnshuffle(2), (x,)),
        (nn.ChannelShuffle(4), (x,)),
        (nn.Unfold(3), (x,)),
        (nn.Fold((6, 6), 3), (_image(2, 18, 16),)),
    ]
    return examples


def _upsamples() -> List[Example]:
    sizes = {1: (2, 3, 5), 2: (2, 3, 5, 6), 3: (2, 3, 5, 6, 7)}
    modes = (("nearest", 1), ("nearest-exact", 2), ("linear", 1), ("bilinear", 2), ("bicubic", 2), ("trilinear", 3))
    examples: List[Example] = [(nn.Upsample(scale_factor=2, mode=m), (_image(*sizes[a]),)) for m, a in modes]
    x = _image(*sizes[2])
    examples += [(nn.UpsamplingNearest2d(scale_factor=2), (x,)), (nn.UpsamplingBilinear2d(scale_factor=3), (x,))]
    return examples


def _sequences() -> List[Example]:
    examples: List[Example] = []
    for name in ("RNN", "GRU", "LSTM"):
        network, cell = getattr(nn, name), getattr(nn, f"{name}Cell")
        examples += [
            (network(6, 5), (_image(7, 2, 6),)),
            (network(6, 5, 3, bidirectional=True, batch_first=True, bias=False), (_image(2, 7, 6),)),
            (network(6, 5), (_image(7, 6),)),
            (cell(6, 5), (_image(2, 6),)),
            (cell(6, 5, bias=False), (_image(6),)),
        ]
    packed = nn.utils.rnn.pack_padded_sequence(_image(7, 2, 6), [7, 4])
    examples += [(nn.LSTM(6, 5, 2, proj_size=3), (_image(7, 2, 6),)), (nn.GRU(6, 5), (packed,))]
    return examples


def _attention() -> List[Example]:
    q, k, v = _image(7, 2, 8), _image(5, 2, 6), _image(5, 2, 4)
    same = _image(2, 7, 8)
    return [
        (nn.MultiheadAttention(8, 2), (q, q, q)),
        (nn.MultiheadAttention(8, 4, kdim=6, vdim=4), (q, k, v)),
        (nn.MultiheadAttention(8, 2, batch_first=True), (same, same, same)),
        (nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True), (q, q, q)),
        (nn.MultiheadAttention(8, 2), (q[:, 0], q[:, 0], q[:, 0])),
    ]


def _products() -> List[Example]:
    x = _image(2, 7, 8)
    indices = torch.tensor([[1, 2, 4], [4, 3, 9]])
    return [
        (nn.Linear(8, 3), (x,)),
        (nn.Linear(8, 3, bias=False), (x[0, 0],)),
        (nn.LazyLinear(3), (x,)),
        (nn.Bilinear(8, 6, 5), (x, _image(2, 7, 6))),
        (nn.Embedding(10, 4), (indices,)),
        (nn.EmbeddingBag(10, 4), (indices,)),
    ]


def _hand_on() -> List[Example]:
    x = _image(2, 8, 5, 6)
    layers = ["Identity", "Flatten", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout"]
    examples: List[Example] = [(getattr(nn, layer)(), (x,)) for layer in layers if layer != "Dropout1d"]
    examples += [
        (nn.Dropout1d(), (x[0],)),
        (nn.FeatureAlphaDropout(), (x,)),
        (nn.Unflatten(1, (2, 4)), (x,)),
        (nn.Sequential(), (x,)),
    ]
    return examples


def examples() -> List[Example]:
    """Make all examples anew."""
    torch.manual_seed(0)
    families = (
        _convolutions, _norms, _activations, _pools, _rearrangements, _upsamples, _sequences, _attention, _products,
        _hand_on,
    )  # fmt: skip
    return [example for family in families for example in family()]


def name_of(example: Example) -> str:
    """Name an example by its layer and input shapes."""
    layer, inputs = example
    shapes = ["x".join(map(str, x.shape)) if isinstance(x, torch.Tensor) else type(x).__name__ for x in inputs]
    return f"{str(layer).splitlines()[0]}-{'-'.join(shapes)}"
