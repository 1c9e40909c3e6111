"""Operators that a device runs as one, though PyTorch takes them apart before a dispatch mode hears of them."""

from functools import partial
from types import FunctionType
from typing import Any, Dict, Optional

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .modes import OperatorMode, no_torch_dispatch, no_torch_function


def fuses_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Optional[Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Optional[float] = None,
    enable_gqa: bool = False,
    on_cuda: bool = False,
) -> bool:
    """Say whether attention is one kernel on the device of the queries, or the matrix is made that it attends by.

    PyTorch itself is asked where it has that device. Where it has not, its conditions for CUDA stand here: four axes,
    no dropout, adjacent elements along the last axis, and heads of at most 256 elements (flash attention, in half
    precision and without a mask, and memory-efficient attention agree on these).
    """
    if not on_cuda and (query.device.type == "cpu" or torch.cuda.is_available()):
        choose = getattr(torch, "_fused_sdp_choice", None)
        if choose is None:
            return False
        options: Dict[str, Any] = {"scale": scale} if scale is not None else {}
        if enable_gqa:
            options["enable_gqa"] = True
        with no_torch_dispatch():
            return bool(choose(query, key, value, attn_mask, dropout_p, is_causal, **options) > 0)
    tensors = [query, key, value]
    return (
        dropout_p == 0
        and all(t.dim() == 4 and t.stride(-1) == 1 and t.shape[-1] <= 256 for t in tensors)
        and (attn_mask is None or attn_mask.dim() in (2, 4))
    )


class WholeOperators(TorchFunctionMode):
    """Leads the calls of recurrent layers and of attention through the operator mode, as one operator each."""

    def __init__(self, operators: OperatorMode, on_cuda: bool = False) -> None:
        super().__init__()
        self.operators, self.on_cuda = operators, on_cuda
        attend = getattr(functional, "scaled_dot_product_attention", None)
        self.replaced: Dict[Any, Any] = {} if attend is None else {attend: partial(self.attend, attend)}
        for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            function = getattr(torch._C._VariableFunctions, name)
            self.replaced[function] = partial(self.recur, name, function)
        heads: Any = functional.multi_head_attention_forward
        namespace = {**heads.__globals__, "has_torch_function": lambda tensors: False}  # or it comes back here for ever
        if attend is not None:
            namespace["scaled_dot_product_attention"] = partial(self.attend, attend)
        self.replaced[heads] = FunctionType(heads.__code__, namespace, heads.__name__, heads.__defaults__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.replaced.get(func, func)(*args, **(kwargs or {}))

    def attend(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Attend in one operator, where PyTorch has a kernel for that."""
        with no_torch_function():
            fuses = fuses_attention(*args, **{**kwargs, "on_cuda": self.on_cuda})
        if not fuses:
            return function(*args, **kwargs)
        return self.operators.whole(torch.ops.aten.scaled_dot_product_attention.default, function, args, kwargs)

    def recur(self, name: str, function: Any, *args: Any) -> Any:
        """Run all steps of a recurrent network in one operator; what is packed comes with its batch sizes second."""
        packet = getattr(torch.ops.aten, name)
        overload = packet.input if isinstance(args[2], (list, tuple)) else packet.data
        return self.operators.whole(overload, function, args, {})
