"""The layer ledger: what every layer of a model computes, reads and writes in one forward pass."""

import inspect
from contextlib import suppress
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Type, Union

import torch
from torch import Tensor, nn

from .answer import Answer, Rows
from .buffers import Cost, add_buffers, add_to_buffers, read_buffers
from .by_hand import sum_buffers
from .hooks import CustomOps, ForwardHook, Hook, count_nothing, elements, find_hook, inherited_hook
from .places import Layer, Places
from .products import (
    ELEMENTWISE,
    MOVES,
    MULTIPLIES,
    NAMED_IN_PASSING,
    OTHER,
    PRODUCTS,
    PRODUCTS_IN_DISGUISE,
    Product,
    kind_of,
    product_of,
    weights_of,
)
from .run import (
    Drive,
    Observer,
    Replica,
    Run,
    as_inputs,
    as_model,
    collector_paused,
    in_few_words,
    is_weight,
    map_tensors,
    parameter_sizes,
    run,
    tensors_in,
)

Tree = Dict[str, Tuple[float, float, float, float, Any]]


def count_parameters(module: nn.Module, recurse: bool = True) -> int:
    """Count the elements of a module's parameters, each parameter once."""
    return sum(
        {k: n for m in (module.modules() if recurse else [module]) for k, n in parameter_sizes(m).items()}.values()
    )


def dfs_count(counted: Union[Layer, nn.Module]) -> Tuple[float, float, float, float, Tree]:
    """Sum the costs over a tree: that of ``Profile.root``, or of a module after ``add_hooks`` and a forward pass.

    Returns total_ops, total_params, total_kernel_macs, total_output_macs and the tree
    ``{child name: (ops, params, kernel, output, {its children})}``. A parameter shared by several modules is counted
    in each row that holds it, and once in the row above.
    """
    if isinstance(counted, nn.Module):
        return sum_buffers(counted)
    layer = counted
    held: List[int] = []
    ops, parameters, kernel, output, tree = _sum(layer, held, any_shared=False)
    if len(held) != len(set(held)):
        ops, parameters, kernel, output, tree = _sum(layer, held, any_shared=True)
    return ops, parameters, kernel, output, tree


def _totals(root: Layer) -> Tuple[float, float, float, float]:
    """Sum the costs over a tree, as ``dfs_count`` does, without making one of numbers."""
    ops, kernel, output = 0.0, 0.0, 0.0
    held: Dict[int, int] = {}
    waiting = [root]
    for layer in waiting:
        ops, kernel, output = ops + layer.ops, kernel + layer.kernel, output + layer.output
        held.update(layer.parameters)
        waiting.extend(layer.children.values())
    return ops, float(sum(held.values())), kernel, output


def _sum(layer: Layer, held: List[int], any_shared: bool) -> Tuple[float, float, float, float, Tree]:
    """Sum below a layer, and note in ``held`` whose parameters were met; where none is shared, they just add up."""
    ops, kernel, output = float(layer.ops), float(layer.kernel), float(layer.output)
    parameters = float(sum(layer.parameters.values()))
    held.extend(layer.parameters)
    tree: Tree = {}
    for child in layer.children.values():
        below = tree[child.name] = _sum(child, held, any_shared)
        ops, kernel, output = ops + below[0], kernel + below[2], output + below[3]
        parameters += below[1]
    if any_shared:
        parameters = float(sum({k: n for place in layer.walk() for k, n in place.parameters.items()}.values()))
    return ops, parameters, kernel, output, tree


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

    total_ops = property(lambda self: self[0])
    total_params = property(lambda self: self[1])
    total_kernel_macs = property(lambda self: self[2])
    total_output_macs = property(lambda self: self[3])

    @property
    def layers(self) -> List[Layer]:
        """The layers that cost anything, in the order of the module tree."""
        return Rows(layer for layer in self.root.walk() if layer.ops or layer.kernel or layer.output)


Token = Tuple[nn.Module, Layer, Layer, int, int, Set[str]]
"""What the ledger has to know when a call ends: the module, who called it, its place, how many counted layers were
running and how many calls had been made when it began, and what the caller had run. A bare tuple, as there are
hundreds."""


class LayerLedger(Observer):
    """Charges every call of a layer to the place in the module tree that it was made from."""

    def __init__(self, replica: Replica, custom_ops: Optional[CustomOps] = None) -> None:
        self.custom_ops = custom_ops or {}
        self.missing: Dict[str, int] = {}
        self.only_moved: Dict[str, int] = {}
        self.kinds: Set[str] = set()  # of operators that the running module has run itself
        self.products: Dict[int, Tuple[Optional[Product], str]] = {}
        self.hooks: Dict[Type[nn.Module], Optional[ForwardHook]] = {}
        self.places = Places(replica)
        self.modules = replica.modules
        self.not_run: Dict[str, int] = {}
        self.root = self.places.root
        self.current = self.root
        self.counted_layers_running = 0
        self.calls = 0
        self.asking_a_rule = False
        if self.custom_ops:
            for module in replica.modules:
                self._prepare_buffers(module)

    @staticmethod
    def _prepare_buffers(module: nn.Module) -> None:
        add_buffers(module)
        module.total_params += count_parameters(module)

    def _hook(self, kind: Type[nn.Module]) -> Optional[ForwardHook]:
        """Find the rule of a class, once."""
        if kind not in self.hooks:
            self.hooks[kind] = find_hook(kind, self.custom_ops)
        return self.hooks[kind]

    def enter(self, module: nn.Module) -> Token:
        caller, kinds = self.current, self.kinds
        if self.asking_a_rule:
            return module, caller, caller, 0, 0, kinds
        self.calls = calls = self.calls + 1
        running = self.counted_layers_running
        self.current = layer = self.places.of_call(module, caller)
        if not layer.calls:
            layer.hook = self._hook(type(module))
            if getattr(module.__dict__.get("forward"), "unwatched_forward", None) is not None:
                layer.hook = find_custom(type(module), self.custom_ops)  # somebody has replaced it
        self.kinds = set()
        if layer.hook is not None and layer.hook is not count_nothing:
            self.counted_layers_running = running + 1
        return module, caller, layer, running, calls, kinds

    def abandon(self, token: Token) -> None:
        if not self.asking_a_rule:
            _, self.current, _, self.counted_layers_running, _, self.kinds = token

    def leave(self, token: Token, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        if self.asking_a_rule:
            return
        module, caller, layer, running, calls, kinds = token
        layer.calls += 1
        layer.output_shape = out.shape if isinstance(out, Tensor) else first_shape(out)
        hook = layer.hook
        if hook is None:
            is_leaf = calls == self.calls
            inherited = inherited_hook(type(module)) if is_leaf and MULTIPLIES not in self.kinds else None
            if inherited is not None and inherited is not count_nothing:
                self._charge(module, layer, args if not kwargs else _positional(module, args, kwargs), out, inherited)
            elif not running:
                self._charge_by_kinds(module, layer, out, is_leaf)
        elif hook is not count_nothing:
            self._charge(module, layer, args if not kwargs else _positional(module, args, kwargs), out, hook)
        self.current, self.counted_layers_running, self.kinds = caller, running, kinds

    def layer_of_one_operator(self, module: nn.Module, x: Any, func: Any, arguments: Tuple[Any, ...], out: Any) -> None:
        caller = self.current
        layer = caller if self.asking_a_rule else self.places.of_call(module, caller)
        if not layer.calls:
            layer.hook = self._hook(type(module))
        if self.asking_a_rule or self.custom_ops or not isinstance(layer.hook, Hook):
            super().layer_of_one_operator(module, x, func, arguments, out)
            return
        result = out[0] if isinstance(out, tuple) else out
        self.calls += 1
        layer.calls += 1
        layer.output_shape = result.shape
        ops, kernel, output = layer.hook.cost(module, (x,), result)
        layer.ops, layer.kernel, layer.output = layer.ops + ops, layer.kernel + kernel, layer.output + output
        self.current = layer
        self.operator_of_layer(func, arguments, out)
        self.current = caller

    def operator_of_layer(self, func: Any, arguments: Tuple[Any, ...], out: Any) -> None:
        """Hear of the one operator of a layer that is charged by its rule."""

    def _charge_by_kinds(self, module: nn.Module, layer: Layer, out: Any, is_leaf: bool) -> None:
        """Charge a call of a module without a rule by what it has run itself.

        Products are charged already. A leaf of element-wise operators and reductions is an activation or a norm, one
        that moves data hands it on; what else there is has no number, and gets a name.
        """
        kinds = self.kinds
        if is_leaf and MULTIPLIES not in kinds:
            kinds = {NAMED_IN_PASSING.get(kind, kind) for kind in kinds}
        unknown = sorted(kind for kind in kinds if "::" in kind)
        if unknown:
            self._miss(f"{_class_name(module)} ({', '.join(unknown)})")
        elif not is_leaf or MULTIPLIES in kinds:
            return
        elif OTHER in kinds:
            self._miss(_class_name(module))
        elif ELEMENTWISE in kinds:
            layer.output += elements(out)
        elif MOVES in kinds:
            name = _class_name(module)
            self.only_moved[name] = self.only_moved.get(name, 0) + 1

    def _charge(self, module: nn.Module, layer: Layer, inputs: Tuple[Any, ...], out: Any, hook: ForwardHook) -> None:
        """Add one call's cost to its layer, by the rule of the house or by the user's own."""
        self.asking_a_rule = True
        try:
            ops, kernel, output = self._ask(module, hook, inputs, out)
            if type(out) is Tensor:
                samples = _samples(out)
                ops, output = ops * samples, output * samples
        except NotImplementedError as error:
            self._miss(f"{_class_name(module)} ({error})")
            ops, kernel, output = 0, 0, elements(out)
        except Exception as error:  # what came in or out has another form than the rule was written for
            self._miss(f"{_class_name(module)} (its rule does not fit: {in_few_words(error)})")
            return
        finally:
            self.asking_a_rule = False
        layer.ops += ops
        layer.kernel += kernel
        layer.output += output

    def _ask(self, module: nn.Module, hook: ForwardHook, inputs: Tuple[Any, ...], out: Any) -> Cost:
        if isinstance(hook, Hook):
            cost = hook.cost(module, inputs, out)
            if self.custom_ops and "total_ops" in module._buffers:
                add_to_buffers(module, cost)
            return cost
        if "total_ops" not in module._buffers:  # it has joined in the run
            self._prepare_buffers(module)
        before = read_buffers(module)
        hook(module, inputs, out)
        after = read_buffers(module)
        cost = Cost(*(new - old for new, old in zip(after, before)))
        if cost.ops and not (cost.kernel or cost.output):
            self._miss(f"{_class_name(module)} (its custom rule counts no accesses)")
        return cost

    def taken_apart(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        """Count the products of an operator whose parts are element-wise and a sum; others' parts have their own."""
        if func._schema.name in PRODUCTS_IN_DISGUISE and not (self.counted_layers_running or self.asking_a_rule):
            product = PRODUCTS[func._schema.name]
            self.kinds.add(MULTIPLIES)
            self.current.ops += product.formula(args, kwargs, out)
            self.current.kernel += weights_of(product, args, is_weight)

    def hands_out(self, what: str) -> None:
        if what == "numpy" and not self.asking_a_rule:
            kind = self.current.kind
            self._miss(f"{kind.__module__}.{kind.__qualname__} (values go to numpy: what it computes has no number)")

    def end(self, output: Any) -> None:
        self.not_run, self.modules = self.places.not_run(self.modules), []
        self.places.note_parameters()

    def _miss(self, name: str) -> None:
        self.missing[name] = self.missing.get(name, 0) + 1

    def operator(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> None:
        """Count the products that run outside of every layer with a rule, and note what else there runs."""
        if self.counted_layers_running or self.asking_a_rule:
            return
        known = self.products.get(id(func))
        if known is None:
            name = func._schema.name
            kind = name if name in NAMED_IN_PASSING else kind_of(func) or name
            known = self.products[id(func)] = product_of(func), kind
        product, kind = known
        self.kinds.add(kind)
        if product is not None:
            try:
                cost = Cost(product.formula(args, kwargs, out), weights_of(product, args, is_weight))
            except Exception as error:
                self._miss(f"{func._schema.name} (its formula does not fit: {in_few_words(error)})")
                return
            current = self.current
            current.ops, current.kernel = current.ops + cost.ops, current.kernel + cost.kernel
            if not all(map(is_weight, tensors_in((out,)))):
                current.output += tensors_in((out,))[0].numel()


def _samples(out: Any) -> int:
    """Count the samples that one call stands for under ``torch.vmap``, where a tensor shows one of them."""
    functorch = getattr(torch._C, "_functorch", None)
    factor = 1
    while isinstance(out, Tensor) and functorch is not None and functorch.is_batchedtensor(out):
        whole = functorch.get_unwrapped(out)
        factor *= whole.numel() // max(out.numel(), 1)
        out = whole
    return factor


def first_shape(value: Any) -> Tuple[int, ...]:
    """Return the shape of the first tensor in a (nested) output that has axes, or ()."""
    return next((tuple(tensor.shape) for tensor in tensors_in((value,)) if tensor.dim()), ())


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def find_custom(kind: Type[nn.Module], custom_ops: CustomOps) -> Optional[ForwardHook]:
    """Return the user's own hook for a class, or None."""
    return next((custom_ops[ancestor] for ancestor in kind.__mro__ if ancestor in custom_ops), None)


def _positional(module: nn.Module, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Tuple[Any, ...]:
    """Put a call's arguments into the order that the class's forward declares, defaults included."""
    bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
    bound.apply_defaults()
    return tuple(bound.arguments.values())[1:]


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

    It is ``add_hooks``, a forward pass and ``dfs_count`` (see ``by_hand.py``), only that the rules hear of the calls of
    a copy that is run without values, and what runs outside of every layer with a rule is counted too.

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
    ledger, outcome = _count(as_model(model, "profile"), as_inputs(inputs, "profile"), custom_ops, kwargs)
    result = Profile(dfs_count(ledger.root) if ret_layer_info else _totals(ledger.root))
    result.root, result.missing, result.only_moved = ledger.root, ledger.missing, ledger.only_moved
    result.not_run = ledger.not_run
    result.mode, result.why, result.leftovers = outcome.mode, outcome.why, outcome.leftovers
    if verbose or report_missing:
        print("\n".join(_rules_used(ledger) + (_rules_missing(ledger) if report_missing else [])))
    return result


def not_run_in_training(model: nn.Module, inputs: Sequence[Any]) -> Optional[Dict[str, int]]:
    """Name the modules that a forward in training does not run either; None where it can't be run without values."""
    doubled = map_tensors(tuple(inputs), lambda t: torch.cat((t, t)) if t.dim() else t)
    larger = map_tensors(doubled, lambda t: t.new_zeros((*t.shape[:2], *(2 * n for n in t.shape[2:]))))
    for given in (tuple(inputs), doubled, larger):  # an auxiliary head may want more than one image, or a larger one
        with suppress(Exception):
            return _count(model, given, None, None, lambda _, forward: forward())[0].not_run
    return None


@collector_paused()
def _count(
    model: nn.Module,
    inputs: Sequence[Any],
    custom_ops: Optional[CustomOps],
    kwargs: Optional[Dict[str, Any]],
    drive: Optional[Drive] = None,
) -> Tuple[LayerLedger, Run]:
    ledgers: List[LayerLedger] = []

    def observe(replica: Replica) -> LayerLedger:
        ledgers.append(LayerLedger(replica, custom_ops))
        return ledgers[-1]

    outcome = run(model, inputs, observe, kwargs=kwargs, drive=drive)
    return ledgers[-1], outcome


def _rules_used(ledger: LayerLedger) -> List[str]:
    """One line for each class that ran and has a rule."""
    return [
        f"[INFO] {getattr(hook, '__name__', repr(hook))}() counts {kind.__module__}.{kind.__qualname__}"
        for kind, hook in ledger.hooks.items()
        if hook is not None
    ]


def _rules_missing(ledger: LayerLedger) -> List[str]:
    """One line for each kind of layer that ran and was not counted."""
    return [f"[WARN] not counted: {name}, {calls} calls" for name, calls in ledger.missing.items()]


__all__ = ["CustomOps", "Layer", "LayerLedger", "Profile", "dfs_count", "not_run_in_training", "profile"]
