"""Counting rules of the layer ledger: what one call of one layer costs, family by family.

A rule is a function ``count_*`` of ``(module, inputs, output)`` that returns a :class:`Cost`. The decorator
:func:`counts` turns it into a :class:`Hook`, a forward hook that adds the cost to the module's buffers, and enters
it into :data:`register_hooks` for every class of its family. Adding a layer touches one place: the list of classes
above its rule.

Operation counts (multiply-accumulates) are those of the package ``ultralytics-thop``, 2.1.6 or newer. Accesses are
tensor elements, not bytes: weights read (``kernel``) and outputs written (``output``). Bias is neither.

By hand the method is hooks on the layers of a model, a forward pass, the sums, the hooks off again:

    add_hooks(model)
    model(x)
    total_ops, total_params, total_kernel_macs, total_output_macs, tree = dfs_count(model)
    remove_hooks(model)

:func:`utils.thop.profile` does the same on a copy that runs without values, and hears besides of what runs outside of
every layer with a rule, which no hook does.
"""

from math import prod
from typing import Any, Callable, Dict, Iterable, Mapping, NamedTuple, Optional, Sequence, Tuple, Type

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..run import look_at, parameter_sizes, tensors_in

BUFFERS = ("total_ops", "total_params", "total_kernel_macs", "total_output_macs")


class Cost(NamedTuple):
    """What one call of a layer costs.

    ops: multiply-accumulates; kernel: weight elements read; output: output elements written.
    """

    ops: float = 0
    kernel: float = 0
    output: float = 0


def add_buffers(module: nn.Module) -> None:
    """Give ``module`` its buffers, at zero; they stay out of its state_dict."""
    for name in BUFFERS:
        module._buffers[name] = torch.zeros(1, dtype=torch.float64)
        module._non_persistent_buffers_set.add(name)


def add_to_buffers(module: Any, cost: Cost) -> None:
    """Add ``cost`` to the buffers of ``module``."""
    module.total_ops += cost.ops
    module.total_kernel_macs += cost.kernel
    module.total_output_macs += cost.output


def read_buffers(module: Any) -> Cost:
    """Return what the buffers of ``module`` hold."""
    return Cost(module.total_ops.item(), module.total_kernel_macs.item(), module.total_output_macs.item())


Rule = Callable[[nn.Module, Tuple[Any, ...], Any], Cost]
ForwardHook = Callable[[nn.Module, Tuple[Any, ...], Any], Any]
CustomOps = Mapping[Type[nn.Module], ForwardHook]


class Hook:
    """A rule in the form of a forward hook: called, it adds the rule's cost to the module's buffers.

    ``cost`` is the rule itself, for a caller that keeps the sums elsewhere; ``sums_products`` says that it counts what
    its class's own forward multiplies, which another forward need not.
    """

    def __init__(self, cost: Rule, sums_products: bool = False) -> None:
        self.cost, self.sums_products = cost, sums_products
        self.__name__ = cost.__name__
        self.__doc__ = cost.__doc__

    def __call__(self, module: nn.Module, inputs: Tuple[Any, ...], output: Any) -> None:
        add_to_buffers(module, self.cost(module, inputs, output))

    def __repr__(self) -> str:
        return f"{self.__name__}()"


register_hooks: Dict[Type[nn.Module], ForwardHook] = {}


def counts(*names: str, sums_products: bool = False) -> Callable[[Rule], Hook]:
    """Register a rule for the classes of ``torch.nn`` with these names, those that this torch has."""

    def register(rule: Rule) -> Hook:
        hook = Hook(rule, sums_products)
        for name in names:
            if hasattr(nn, name):
                register_hooks[getattr(nn, name)] = hook
        return hook

    return register


def find_hook(layer: Type[nn.Module], custom_ops: Optional[CustomOps] = None) -> Optional[ForwardHook]:
    """Return the hook of the nearest ancestor of ``layer`` that has one, or None; ``custom_ops`` goes first.

    A rule of the house speaks for the forward of its class: a subclass with one of its own has no rule.
    """
    for ancestor in layer.__mro__:
        if custom_ops and ancestor in custom_ops:
            return custom_ops[ancestor]
        if ancestor in register_hooks:
            return register_hooks[ancestor] if _runs_forward_of(layer, ancestor) else None
    return None


def inherited_hook(layer: Type[nn.Module]) -> Optional[ForwardHook]:
    """Return the hook of the nearest ancestor that has one, though ``layer`` has a forward of its own.

    It fits where that forward sums no products: a norm over channels that come last is still a norm.
    """
    found = next((register_hooks[ancestor] for ancestor in layer.__mro__ if ancestor in register_hooks), None)
    return None if isinstance(found, Hook) and found.sums_products else found


def _runs_forward_of(layer: Type[nn.Module], ancestor: Type[nn.Module]) -> bool:
    methods = ("forward", "_conv_forward") if hasattr(ancestor, "_conv_forward") else ("forward",)
    return all(getattr(layer, method) is getattr(ancestor, method) for method in methods)


def elements(value: Any) -> int:
    """Return how many elements the tensors in a (nested) output have together."""
    if isinstance(value, PackedSequence):  # its other parts say how it is packed
        return value.data.numel()
    if isinstance(value, (list, tuple)):
        return sum(map(elements, value))
    return sum(tensor.numel() for tensor in tensors_in((value,)))


def _per_axis(value: Any, axes: int) -> Sequence[int]:
    return (value,) * axes if isinstance(value, int) else value


def _weight_elements(module: nn.Module) -> int:
    """Elements of a recurrent layer's weight matrices, whatever parameters they are made of; no bias."""
    names = getattr(module, "_flat_weights_names", None) or ("weight_ih", "weight_hh")
    return sum(getattr(module, name).numel() for name in names if name.startswith("weight"))


@counts("Conv1d", "Conv2d", "Conv3d", sums_products=True)
def count_convNd(m: nn.Module, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """Each output element sums Cin / groups x kernel volume products, which is the size of one filter."""
    weight = look_at(m, "weight")
    outputs, kernel = y.numel(), weight.numel()
    return Cost(outputs * (kernel // max(weight.shape[0], 1)), kernel, outputs)


@counts("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", sums_products=True)
def count_convtNd(m: nn.Module, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """Each input element is scattered into Cout / groups x kernel volume outputs, the size of one filter."""
    weight: Any = m.weight
    return Cost(x[0].numel() * prod(weight.shape[1:]), weight.numel(), y.numel())


@counts("Linear", sums_products=True)
def count_linear(m: Any, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """Each output element sums ``in_features`` products; weights may be packed, but all are read."""
    return Cost(m.in_features * y.numel(), m.in_features * m.out_features, y.numel())


@counts("Bilinear", sums_products=True)
def count_bilinear(m: Any, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """x1 A x2: in1 x in2 products for the first contraction, in2 more for the second."""
    return Cost((m.in1_features + 1) * m.in2_features * y.numel(), m.weight.numel(), y.numel())


@counts(
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm",
    "LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d",
    "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d",
    "LazyInstanceNorm1d", "LazyInstanceNorm2d", "LazyInstanceNorm3d",
    "GroupNorm", "LayerNorm", "RMSNorm",
)  # fmt: skip
def count_normalization(m: nn.Module, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """Centre and scale each element, and with an affine transform scale and shift it once more."""
    affine = getattr(m, "affine", False) or getattr(m, "elementwise_affine", False)
    return Cost(x[0].numel() * (4 if affine else 2), 0, y.numel())


@counts("PReLU")
def count_prelu(m: nn.Module, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """One product with the learnt slope for each element; the reference counts it in evaluation mode only."""
    return Cost(0 if m.training else x[0].numel(), 0, y.numel())


def _softmax_ops(rows: int, width: int) -> int:
    """An exponential and a division for each element, and a sum for each row."""
    return rows * (2 * width + max(width - 1, 0))


@counts("Softmax", "Softmax2d", "Softmin", "LogSoftmax")
def count_softmax(m: Any, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """Softmax along its axis; Softmin negates every element first, LogSoftmax takes one logarithm a row."""
    dim = -3 if isinstance(m, nn.Softmax2d) else m.dim
    if dim is None:  # torch's own deprecated choice
        dim = 0 if x[0].dim() in (0, 1, 3) else 1
    width = x[0].shape[dim] if x[0].dim() else 1
    rows = x[0].numel() // width if width else 0
    extra = x[0].numel() if isinstance(m, nn.Softmin) else rows if isinstance(m, nn.LogSoftmax) else 0
    return Cost(_softmax_ops(rows, width) + extra, 0, y.numel())


@counts(
    "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid",
    "Mish", "ReLU", "ReLU6", "RReLU", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh",
    "Tanhshrink", "Threshold",
)  # fmt: skip
def count_activation(m: nn.Module, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """The reference counts no operation; every element is written, in place or not."""
    return Cost(0, 0, y.numel())


@counts("AvgPool1d", "AvgPool2d", "AvgPool3d")
def count_avgpool(m: Any, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """One addition for each element of each window, as far as the window lies inside, and one division a window."""
    axes = 1 if isinstance(m, nn.AvgPool1d) else 2 if isinstance(m, nn.AvgPool2d) else 3
    window_elements = 1
    for size, outputs, kernel, stride, padding in zip(
        x[0].shape[-axes:],
        y.shape[-axes:],
        _per_axis(m.kernel_size, axes),
        _per_axis(m.stride, axes),
        _per_axis(m.padding, axes),
    ):
        low, high = (-padding, size + padding) if m.count_include_pad else (0, size)
        starts = range(-padding, outputs * stride - padding, stride)
        window_elements *= sum(max(min(start + kernel, high) - max(start, low), 0) for start in starts)
    return Cost(prod(x[0].shape[:-axes]) * window_elements + y.numel(), 0, y.numel())


def _adaptive_window_elements(size: int, outputs: int) -> int:
    """Sum of the windows that adaptive pooling cuts an axis into; they overlap where the sizes don't divide."""
    return sum(-(-(i + 1) * size // outputs) - i * size // outputs for i in range(outputs))


@counts("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d")
def count_adap_avgpool(m: nn.Module, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """One addition for each element of each window, and one division a window."""
    additions = prod(map(_adaptive_window_elements, x[0].shape, y.shape))
    return Cost(additions + y.numel(), 0, y.numel())


@counts(
    "MaxPool1d", "MaxPool2d", "MaxPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d",
    "FractionalMaxPool2d", "FractionalMaxPool3d", "LPPool1d", "LPPool2d", "LPPool3d",
    "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d",
)  # fmt: skip
def count_pool(m: nn.Module, x: Tuple[Any, ...], y: Any) -> Cost:
    """The reference counts no operation; indices, where they are returned, are written too."""
    return Cost(0, 0, elements(y))


_UPSAMPLE_OPS = {"nearest": 0, "nearest-exact": 0, "linear": 5, "bilinear": 11, "bicubic": 259, "trilinear": 31}


@counts("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d")
def count_upsample(m: Any, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """Operations for each output element by interpolation mode, as the reference has them."""
    if m.mode == "area":  # torch computes it as adaptive average pooling
        return count_adap_avgpool.cost(m, x, y)
    if m.mode not in _UPSAMPLE_OPS:
        raise NotImplementedError(f"no operation count is known for mode {m.mode!r}")
    return Cost(_UPSAMPLE_OPS[m.mode] * y.numel(), 0, y.numel())


@counts(
    "ConstantPad1d", "ConstantPad2d", "ConstantPad3d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
    "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d",
    "ReplicationPad3d", "CircularPad1d", "CircularPad2d", "CircularPad3d",
    "PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "Fold", "Unfold",
)  # fmt: skip
def count_rearrangement(m: nn.Module, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """Elements move to other places: nothing is computed, all of them are written."""
    return Cost(0, 0, y.numel())


@counts("LocalResponseNorm", "CrossMapLRN2d")
def count_local_response_norm(m: nn.Module, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """The reference counts no operation; every element is written."""
    return Cost(0, 0, y.numel())


@counts("Embedding")
def count_embedding(m: nn.Module, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """The rows looked up are read and written."""
    return Cost(0, y.numel(), y.numel())


@counts("EmbeddingBag")
def count_embedding_bag(m: Any, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """One row is read for each index, and one written for each bag."""
    return Cost(0, x[0].numel() * m.embedding_dim, y.numel())


def _step(m: Any, inputs: int, gates: int, others: int) -> int:
    """One step of a recurrent layer: gates, element-wise steps, and the projection of the state if it has one.

    A gate is two matrix products, their sum, and two biases.
    """
    projection = getattr(m, "proj_size", 0)
    gate = m.hidden_size * (inputs + (projection or m.hidden_size) + 1 + (2 if m.bias else 0))
    return gates * gate + others * m.hidden_size + m.hidden_size * projection


def _stacked_cost(m: Any, x: Any, y: Tensor, gates: int, others: int) -> Cost:
    """Steps of all layers and directions of a recurrent network for all positions of its input sequence."""
    if isinstance(x, PackedSequence):
        positions = int(x.batch_sizes.sum())
    else:
        positions = x.shape[0] * (x.shape[1] if x.dim() == 3 else 1)
    directions = 2 if m.bidirectional else 1
    width = getattr(m, "proj_size", 0) or m.hidden_size
    later_layers = (m.num_layers - 1) * _step(m, width * directions, gates, others)
    ops = positions * directions * (_step(m, m.input_size, gates, others) + later_layers)
    return Cost(ops, _weight_elements(m), elements(y))


def _cell_cost(m: Any, x: Tensor, state: Tensor, gates: int, others: int) -> Cost:
    """One step for each sample; an input of one dimension is a single sample."""
    samples = x.shape[0] if x.dim() == 2 else 1
    return Cost(_step(m, m.input_size, gates, others) * samples, _weight_elements(m), state.numel())


@counts("RNN", sums_products=True)
def count_rnn(m: Any, x: Tuple[Any, ...], y: Any) -> Cost:
    """All steps of an Elman network."""
    return _stacked_cost(m, x[0], y[0], gates=1, others=0)


@counts("GRU", sums_products=True)
def count_gru(m: Any, x: Tuple[Any, ...], y: Any) -> Cost:
    """All steps of a gated recurrent unit: four element-wise products and sums mix the new state in."""
    return _stacked_cost(m, x[0], y[0], gates=3, others=4)


@counts("LSTM", sums_products=True)
def count_lstm(m: Any, x: Tuple[Any, ...], y: Any) -> Cost:
    """All steps of a long short-term memory: three element-wise ones for the cell, one for the state."""
    return _stacked_cost(m, x[0], y[0], gates=4, others=4)


@counts("RNNCell", sums_products=True)
def count_rnn_cell(m: Any, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """One step of an Elman network."""
    return _cell_cost(m, x[0], y, gates=1, others=0)


@counts("GRUCell", sums_products=True)
def count_gru_cell(m: Any, x: Tuple[Any, ...], y: Tensor) -> Cost:
    """One step of a gated recurrent unit."""
    return _cell_cost(m, x[0], y, gates=3, others=4)


@counts("LSTMCell", sums_products=True)
def count_lstm_cell(m: Any, x: Tuple[Any, ...], y: Any) -> Cost:
    """One step of a long short-term memory; of its two outputs the hidden state is the output sequence's element."""
    return _cell_cost(m, x[0], y[0], gates=4, others=4)


@counts("MultiheadAttention", sums_products=True)
def count_multihead_attention(m: Any, x: Tuple[Any, ...], y: Any) -> Cost:
    """Projections of query, key, value and output, the two attention products, and the softmax between them.

    Shapes: query (L, N, E), or (N, L, E) with ``batch_first``, or (L, E) unbatched; key and value likewise.
    """
    out, key = y[0], x[1]
    sequence_axis = 1 if m.batch_first and out.dim() == 3 else 0
    queries, keys = out.shape[sequence_axis], key.shape[sequence_axis]
    batch = out.shape[1 - sequence_axis] if out.dim() == 3 else 1
    attended = keys + (m.bias_k is not None) + int(m.add_zero_attn)
    projections = m.embed_dim * (2 * queries * m.embed_dim + keys * (m.kdim + m.vdim))
    products = 2 * queries * attended * m.embed_dim
    ops = batch * (projections + products) + _softmax_ops(batch * m.num_heads * queries, attended)
    in_projections: Iterable[Any] = (m.in_proj_weight, m.q_proj_weight, m.k_proj_weight, m.v_proj_weight)
    kernel = m.out_proj.weight.numel() + sum(w.numel() for w in in_projections if w is not None)
    return Cost(ops, kernel, out.numel())


@counts(
    "Identity", "Flatten", "Unflatten", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout",
    "FeatureAlphaDropout", "Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict",
)  # fmt: skip
def count_nothing(m: nn.Module, x: Tuple[Any, ...], y: Any) -> Cost:
    """These hand their input on: nothing is computed, read or written."""
    return Cost()


# ---- the method by hand ----

_HANDLE = "_counting_hook"


def add_hooks(model: nn.Module, custom_ops: Optional[CustomOps] = None) -> None:
    """Give every module its four buffers, and those with a rule the rule as a forward hook.

    Each call of the model adds to the buffers of the modules that it calls. The buffers stay out of its state_dict.
    """
    module: Any
    for module in model.modules():
        _remove_hook(module)
        add_buffers(module)
        module.total_params += sum(parameter_sizes(module).values())
        hook = find_hook(type(module), custom_ops)
        if hook is not None and hook is not count_nothing:
            module.__dict__[_HANDLE] = module.register_forward_hook(hook)


def remove_hooks(model: nn.Module) -> None:
    """Take the hooks and buffers off again; nothing stays behind."""
    for module in model.modules():
        _remove_hook(module)


def _remove_hook(module: nn.Module) -> None:
    handle: Any = module.__dict__.pop(_HANDLE, None)
    if handle is not None:
        handle.remove()
    for name in BUFFERS:
        module._buffers.pop(name, None)
        module._non_persistent_buffers_set.discard(name)
