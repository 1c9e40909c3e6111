"""What a dispatch mode does not hear of: operators that PyTorch takes apart before, and calls for a tensor's memory."""

from contextlib import suppress
from functools import partial
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .dispatch import OperatorMode, need_memory
from .shape_tensor import MEMORY, ShapeTensor
from .torch_private import (
    RECURRENT,
    UninitializedTensorMixin,
    attention_forward_with,
    no_torch_dispatch,
    no_torch_function,
)


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
            if query.dim() == key.dim() == value.dim() == 3:  # torch before 2.5 has no kernel for these
                query, key, value = query[None], key[None], value[None]
                attn_mask = attn_mask[None] if attn_mask is not None and attn_mask.dim() == 3 else attn_mask
            return bool(choose(query, key, value, attn_mask, dropout_p, is_causal, **options) > 0)
    tensors = [query, key, value]
    return (
        dropout_p == 0
        and all(t.dim() == 4 and t.stride(-1) == 1 and t.shape[-1] <= 256 for t in tensors)
        and (attn_mask is None or attn_mask.dim() in (2, 4))
    )


_TAKEN_APART: Dict[str, Tuple[Any, ...]] = {
    "cosine_similarity": (functional.cosine_similarity, torch.cosine_similarity),
    "cosine_embedding_loss": (functional.cosine_embedding_loss, torch.cosine_embedding_loss),
    "linalg_vecdot": (torch.linalg.vecdot,) if hasattr(torch.linalg, "vecdot") else (),
}
"""Operators that no dispatch mode hears of, and the functions that call them."""


LAYERS_OF_ONE = (nn.RNNBase, nn.CosineSimilarity, nn.CosineEmbeddingLoss, nn.MultiheadAttention,
                 nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)  # fmt: skip
NAMES_OF_ONE = frozenset((*_TAKEN_APART, *RECURRENT, "vecdot", "multi_head_attention_forward"))
"""Layers that call what is one operator, and names of such: where modes do not outlive an interrupt, no others are
watched."""
_GET_DATA: Any = Tensor.data.__get__  # type: ignore[attr-defined]


class WatchedFunctions(TorchFunctionMode):
    """Leads calls of recurrent layers and of attention through the operator mode, as one operator each.

    And it hears what asks for a tensor's memory behind the dispatcher's back, in whatever way it is called: where there
    is none C++ would read at address 0; where there is, values leave PyTorch.
    """

    def __init__(self, operators: OperatorMode, runs_whole: bool = True, on_cuda: bool = False) -> None:
        super().__init__()
        self.operators, self.on_cuda = operators, on_cuda
        self.replaced: Dict[Any, Any] = {
            getattr(Tensor, name): partial(self.memory, name, getattr(Tensor, name))
            for name in MEMORY
            if hasattr(Tensor, name)
        }
        self.replaced[_GET_DATA] = self.data
        for name, functions in _TAKEN_APART.items():
            packet = getattr(torch.ops.aten, name)
            for function in (*functions, packet, packet.default):
                self.replaced[function] = partial(self.apart, packet.default, function)
        if runs_whole:
            self._replace_wholes()

    def _replace_wholes(self) -> None:
        attend = getattr(functional, "scaled_dot_product_attention", None)
        for name, function in RECURRENT.items():
            self.replaced[function] = partial(self.recur, name, function)
        if attend is not None:
            self.replaced[attend] = partial(self.attend, attend)
        heads: Any = functional.multi_head_attention_forward
        self.replaced[heads] = attention_forward_with(self.replaced.get(attend))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.replaced.get(func, func)(*args, **(kwargs or {}))

    def memory(self, name: str, function: Any, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        """Hand out a tensor's memory where it has some."""
        if type(tensor) is ShapeTensor:
            return getattr(tensor, name)()  # which refuses
        with no_torch_function():
            need_memory([tensor] if isinstance(tensor, Tensor) else [], name)
        if name in ("numpy", "__array__", "tolist"):
            self.operators.hands_out("numpy" if name != "tolist" else "Python numbers")
        return function(tensor, *args, **kwargs)

    @staticmethod
    def data(tensor: Tensor, *args: Any) -> Tensor:
        """Return a tensor's data; of any class, which torch before 2.5 can't where functions are led."""
        if not isinstance(tensor, UninitializedTensorMixin):
            with suppress(RuntimeError):
                return _GET_DATA(tensor, *args)  # type: ignore[no-any-return]
        with no_torch_function():
            return _GET_DATA(tensor, *args)  # type: ignore[no-any-return]

    def apart(self, func: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Run an operator that PyTorch takes apart, and say what it was."""
        out = function(*args, **kwargs)
        operands = [*args, *(kwargs[name] for name in ("x1", "x2", "x", "y") if name in kwargs)]
        with no_torch_function():
            self.operators.taken_apart(func, tuple(operands), kwargs, out)
        return out

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
