"""Layer rules: the one operator that a layer's forward comes to, for the layers that networks have by the dozen.

They spare the way to it through PyTorch's dispatcher, which takes longer than the operator's shape rule.
"""

from typing import Any, Callable, Dict, Optional, Tuple, Type

import torch
from torch import Tensor, nn

from .parameters import look_at

LayerRule = Callable[[nn.Module, Tensor], Optional[Tuple[Any, Tuple[Any, ...]]]]


class _LayerRules:
    """One rule a class, as long as the methods that it stands for are the class's own."""

    def __init__(self) -> None:
        self.rules: Dict[Type[nn.Module], Tuple[LayerRule, Dict[str, Any]]] = {}

    def find(self, module: nn.Module) -> Optional[LayerRule]:
        """Return the rule of exactly this module's class, or None; also where someone has replaced a method."""
        kind = type(module)
        known = self.rules.get(kind)
        if known is None:
            return None
        rule, methods = known
        for name, method in methods.items():
            if name in module.__dict__ or getattr(kind, name) is not method:
                return None
        return rule


LAYER_RULES = _LayerRules()
_ATEN: Any = torch.ops.aten


def _layer_rule(kind: Type[nn.Module], *methods: str) -> Callable[[LayerRule], LayerRule]:
    """Register a rule for a class, in place of these methods of it.

    A rule takes the layer and a tensor without values, and returns the ATen operator that the forward comes to, with
    its arguments; or None for a case, an error above all, that is better left to the forward.
    """

    def register(rule: LayerRule) -> LayerRule:
        LAYER_RULES.rules[kind] = rule, {name: getattr(kind, name) for name in methods}
        return rule

    return register


@_layer_rule(nn.Conv2d, "forward", "_conv_forward")
def _conv2d(m: Any, x: Tensor) -> Any:
    weight = look_at(m, "weight")
    if weight is None or x.dim() != 4 or m.padding_mode != "zeros" or isinstance(m.padding, str):
        return None
    bias = look_at(m, "bias")
    rest = m.stride, m.padding, m.dilation, False, (0, 0), m.groups
    return _ATEN.convolution.default, (x, weight, bias, *rest)


@_layer_rule(nn.BatchNorm2d, "forward", "_check_input_dim")
def _batch_norm2d(m: Any, x: Tensor) -> Any:
    mean, var = look_at(m, "running_mean", "_buffers"), look_at(m, "running_var", "_buffers")
    if mean is None or m.training or x.dim() != 4 or x.shape[1] != m.num_features:
        return None
    weight, bias = look_at(m, "weight"), look_at(m, "bias")
    return _ATEN.native_batch_norm.default, (x, weight, bias, mean, var, False, m.momentum or 0.0, m.eps)


@_layer_rule(nn.SiLU, "forward")
def _silu(m: Any, x: Tensor) -> Any:
    return _ATEN.silu_.default if m.inplace else _ATEN.silu.default, (x,)


@_layer_rule(nn.ReLU, "forward")
def _relu(m: Any, x: Tensor) -> Any:
    return _ATEN.relu_.default if m.inplace else _ATEN.relu.default, (x,)
