"""The method by hand: hooks on the layers of a model, a forward pass, the sums, the hooks off again.

    add_hooks(model)
    model(x)
    total_ops, total_params, total_kernel_macs, total_output_macs, tree = dfs_count(model)
    remove_hooks(model)

:func:`utils.thop.profile` does the same on a copy that runs without values, and hears besides of what runs outside of
every layer with a rule, which no hook does.
"""

from typing import Any, Callable, Dict, Iterable, Optional, Set, Tuple

from torch import nn

from ..run import parameter_sizes
from .layer_rules import Cost, CustomOps, add_buffers, count_nothing, find_hook, read_buffers, remove_buffers

_HANDLE = "_counting_hook"


def add_hooks(model: nn.Module, custom_ops: Optional[CustomOps] = None) -> None:
    """Give every module its four buffers, and those with a rule the rule as a forward hook.

    Each call of the model adds to the buffers of the modules that it calls. The buffers stay out of its state_dict.
    """
    module: Any
    for module in model.modules():
        _remove(module)
        add_buffers(module)
        module.total_params += sum(parameter_sizes(module).values())
        hook = find_hook(type(module), custom_ops)
        if hook is not None and hook is not count_nothing:
            module.__dict__[_HANDLE] = module.register_forward_hook(hook)


def remove_hooks(model: nn.Module) -> None:
    """Take the hooks and buffers off again; nothing stays behind."""
    for module in model.modules():
        _remove(module)


def _remove(module: nn.Module) -> None:
    handle: Any = module.__dict__.pop(_HANDLE, None)
    if handle is not None:
        handle.remove()
    remove_buffers(module)


Part = Tuple[Cost, Dict[int, int], Iterable[Tuple[str, Any]]]
"""What is in one place: its own cost, its parameters' elements by identity, and its parts by their names."""


def buffers_reader() -> Callable[[nn.Module], Part]:
    """Return what reads the buffers of a module and of those below; one of several places is read at its first one.

    It raises ValueError where a module has none; ``add_hooks`` gives them.
    """
    seen: Set[int] = set()

    def read(module: nn.Module) -> Part:
        if "total_ops" not in module._buffers:
            raise ValueError(f"{type(module).__name__} has no buffers to sum; add_hooks() gives them")
        seen.add(id(module))
        parts = ((name, child) for name, child in module.named_children() if id(child) not in seen)
        return read_buffers(module), parameter_sizes(module), parts

    return read
