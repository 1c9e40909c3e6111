"""Layer rules: the one operator that a layer's forward comes to, for the layers that networks have by the dozen.

They spare the way to it through PyTorch's dispatcher, which takes longer than the operator's shape rule.
"""

from typing import Any, Callable, Dict, Optional, Tuple, Type

import torch
from torch import Tensor, nn

from .module_fields import table_to_look_at

LayerRule = Callable[[nn.Module, Tensor], Optional[Tuple[Any, Tuple[Any, ...]]]]


class _LayerRules:
    """One rule a class, as long as the methods that it stands for are the class's own."""

    def __init__(self) -> None:
        self.rules: Dict[Type[nn.Module], Tuple[LayerRule, Dict[str, Any]]] = {}

    def in_force(self) -> Dict[Type[nn.Module], Tuple[LayerRule, Dict[str, Any]]]:
        """Return the rules of the classes none of whose methods someone has replaced, with these methods by name."""
        return {
            kind: (rule, methods)
            for kind, (rule, methods) in self.rules.items()
            if all(getattr(kind, name) is method for name, method in methods.items())
        }


LAYER_RULES = _LayerRules()
_ATEN: Any = torch.ops.aten
_AFFINE = {"weight", "bias"}


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
    held = table_to_look_at(m)
    weight, bias = held.get("weight"), held.get("bias")
    if weight is None or "bias" not in held or x.dim() != 4 or m.padding_mode != "zeros" or isinstance(m.padding, str):
        return None
    rest = m.stride, m.padding, m.dilation, False, (0, 0), m.groups
    return _ATEN.convolution.default, (x, weight, bias, *rest)


@_layer_rule(nn.BatchNorm2d, "forward", "_check_input_dim")
def _batch_norm2d(m: Any, x: Tensor) -> Any:
    held, statistics = table_to_look_at(m), table_to_look_at(m, "_buffers")
    mean, var = statistics.get("running_mean"), statistics.get("running_var")
    if mean is None or m.training or x.dim() != 4 or x.shape[1] != m.num_features or held.keys() != _AFFINE:
        return None
    weight, bias = held["weight"], held["bias"]
    return _ATEN.native_batch_norm.default, (x, weight, bias, mean, var, False, m.momentum or 0.0, m.eps)


@_layer_rule(nn.LayerNorm, "forward")
def _layer_norm(m: Any, x: Tensor) -> Any:
    held, axes = table_to_look_at(m), m.normalized_shape
    if tuple(x.shape[x.dim() - len(axes) :]) != tuple(axes) or not held.keys() <= _AFFINE:
        return None
    return _ATEN.native_layer_norm.default, (x, list(axes), held.get("weight"), held.get("bias"), m.eps)


@_layer_rule(nn.SiLU, "forward")
def _silu(m: Any, x: Tensor) -> Any:
    return _ATEN.silu_.default if m.inplace else _ATEN.silu.default, (x,)


@_layer_rule(nn.ReLU, "forward")
def _relu(m: Any, x: Tensor) -> Any:
    return _ATEN.relu_.default if m.inplace else _ATEN.relu.default, (x,)


@_layer_rule(nn.GELU, "forward")
def _gelu(m: Any, x: Tensor) -> Any:
    return (_ATEN.gelu.default, (x,)) if m.approximate == "none" else None
