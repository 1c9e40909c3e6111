"""The layer layers: what every layer of a model computes, reads and writes in one forward pass."""

from contextlib import suppress
from typing import Any, Dict, List, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from .answer import Answer, Rows
from .count.layers import CustomOps, Layer, LayerCounts, count_layers, dfs_count, totals
from .run import as_inputs, as_model, map_tensors


class Profile(Answer, tuple):  # type: ignore[type-arg]
    """What ``profile`` returns: a tuple of four totals (five with the tree), with the details as attributes.

    root: the tree of :class:`Layer`; missing: what ran and has no number, by name, with the number of calls;
    only_moved: modules that only move data, which is no access in this method, likewise; not_run: modules that were not
    called, nor asked for a parameter, such as auxiliary heads of training, with the elements that only they hold;
    mode, why: how the model was run; leftovers: what of that run the model's code has kept where it could not be
    taken back from, empty as a rule.
    """

    root: Layer
    missing: Dict[str, int]
    only_moved: Dict[str, int]
    not_run: Dict[str, int]
    mode: str
    why: str
    leftovers: List[str]

    @classmethod
    def of(cls, counted: LayerCounts, with_tree: bool = False) -> "Profile":
        """Sum up what was counted."""
        result = cls(dfs_count(counted.root) if with_tree else totals(counted.root))
        result.__dict__.update(vars(counted))
        return result

    total_ops = property(lambda self: self[0])
    total_params = property(lambda self: self[1])
    total_kernel_macs = property(lambda self: self[2])
    total_output_macs = property(lambda self: self[3])

    @property
    def layers(self) -> List[Layer]:
        """The layers that cost anything, in the order of the module tree."""
        return Rows(layer for layer in self.root.walk() if layer.ops or layer.kernel or layer.output)


def profile(
    model: nn.Module,
    inputs: Union[Sequence[Any], Tensor],
    custom_ops: Optional[CustomOps] = None,
    verbose: bool = True,
    ret_layer_info: bool = False,
    report_missing: bool = False,
    kwargs: Optional[Dict[str, Any]] = None,
) -> Profile:
    """Count what one forward pass of ``model`` computes, reads and writes, in evaluation mode.

    It is ``add_hooks``, a forward pass and ``dfs_count`` (``count/layer_rules.py``), only that the rules hear of the
    calls of a copy that is run without values, and what runs outside of every layer with a rule is counted too.

    Args:
        model: any module; it is not touched, a copy of it is run.
        inputs: the positional arguments of its forward, or the only one if it is a tensor.
        custom_ops: hooks ``(module, inputs, output)`` by class, which go before the rules of the house; a hook adds
            to ``module.total_ops`` and, to count accesses, ``total_kernel_macs`` and ``total_output_macs``.
        verbose: print which rule serves which class.
        ret_layer_info: return the tree of layers as a fifth item.
        report_missing: print what ran and has no rule (and, as thop does, what ``verbose`` prints).
        kwargs: the keyword arguments of its forward.

    Returns:
        total_ops (multiply-accumulates), total_params, total_kernel_macs (weight elements read) and
        total_output_macs (output elements written), as floats in a :class:`Profile`.

    Raises:
        TypeError: ``model`` is not a module, or ``inputs`` not a tensor, tuple or list.
        Exception: whatever the model's own forward raises.
    """
    counted = count_layers(as_model(model, "profile"), as_inputs(inputs, "profile"), custom_ops, kwargs)
    lines = []
    if verbose or report_missing:
        used = ((hook, kind) for kind, hook in counted.rules.items() if hook is not None)
        names = (
            (getattr(hook, "__name__", repr(hook)), f"{kind.__module__}.{kind.__qualname__}") for hook, kind in used
        )
        lines += [f"[INFO] {rule}() counts {name}" for rule, name in names]
    if report_missing:
        lines += [f"[WARN] not counted: {name}, {calls} calls" for name, calls in counted.missing.items()]
    if lines:
        print("\n".join(lines))
    return Profile.of(counted, ret_layer_info)


def not_run_in_training(model: nn.Module, inputs: Sequence[Any]) -> Optional[Dict[str, int]]:
    """Name the modules that a forward in training does not run either; None where it can't be run without values."""
    doubled = map_tensors(tuple(inputs), lambda t: torch.cat((t, t)) if t.dim() else t)
    larger = map_tensors(doubled, lambda t: t.new_zeros((*t.shape[:2], *(2 * n for n in t.shape[2:]))))
    for given in (tuple(inputs), doubled, larger):  # an auxiliary head may want more than one image, or a larger one
        with suppress(Exception):
            return count_layers(model, given, drive=lambda driven: driven.forward()).not_run
    return None
