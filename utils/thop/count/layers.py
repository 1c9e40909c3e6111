"""What every layer of a model computes, reads and writes: the sums that listen to a run, alone or beside a recorder."""

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Type, Union

from torch import Tensor, nn

from ..run import (
    Drive,
    ModelCopy,
    Observer,
    Run,
    collector_paused,
    in_few_words,
    is_of_a_signal,
    is_weight,
    parameter_sizes,
    run,
    tensors_in,
    whole_batch,
)
from .facts import ELEMENTWISE, MOVES, MULTIPLIES, NAMED_IN_PASSING, OTHER, facts_of, hear_of_new_formulas
from .flops import PRODUCTS, PRODUCTS_IN_DISGUISE, weights_of
from .layer_rules import (
    Cost,
    CustomOps,
    ForwardHook,
    Hook,
    add_buffers,
    add_to_buffers,
    count_nothing,
    elements,
    find_hook,
    inherited_hook,
    read_buffers,
)
from .places import Layer, Places

Tree = Dict[str, Tuple[float, float, float, float, Any]]


def count_parameters(module: nn.Module) -> int:
    """Count the elements of the parameters of a module and of all inside it, each parameter once."""
    return sum({k: n for m in module.modules() for k, n in parameter_sizes(m).items()}.values())


def dfs_count(counted: Union[Layer, nn.Module]) -> Tuple[float, float, float, float, Tree]:
    """Sum the costs over a tree: that of ``Profile.root``, or of a module after ``add_hooks`` and a forward pass.

    Returns total_ops, total_params, total_kernel_macs, total_output_macs and the tree
    ``{child name: (ops, params, kernel, output, {its children})}``. A parameter shared by several modules is counted
    in each row that holds it, and once in the row above.
    """
    layer = _layer_by_hand("", counted, set()) if isinstance(counted, nn.Module) else counted
    cost, parameters, tree = _sum(layer)
    return float(cost.ops), float(sum(parameters.values())), float(cost.kernel), float(cost.output), tree


def _sum(layer: Layer) -> Tuple[Cost, Dict[int, int], Tree]:
    """Sum below a place: its cost, its parameters' elements, and the tree of its parts."""
    ops, kernel, output, parameters = layer.ops, layer.kernel, layer.output, layer.parameters
    tree: Tree = {}
    for child in layer.children.values():
        below, held, inner = _sum(child)
        tree[child.name] = float(below.ops), float(sum(held.values())), float(below.kernel), float(below.output), inner
        ops, kernel, output = ops + below.ops, kernel + below.kernel, output + below.output
        parameters = {**parameters, **held}
    return Cost(ops, kernel, output), parameters, tree


def _layer_by_hand(name: str, module: nn.Module, seen: Set[int]) -> Layer:
    """Read the buffers of a module and of those below; one of several places is read at its first one."""
    if "total_ops" not in module._buffers:
        raise ValueError(f"{type(module).__name__} has no buffers to sum; add_hooks() gives them")
    seen.add(id(module))
    ops, kernel, output = read_buffers(module)
    layer = Layer(name, "", type(module), parameter_sizes(module), ops=ops, kernel=kernel, output=output)
    for part, child in module.named_children():
        if id(child) not in seen:
            layer.children[id(child)] = _layer_by_hand(part, child, seen)
    return layer


def totals(root: Layer) -> Tuple[float, float, float, float]:
    """Sum the costs over a tree, as ``dfs_count`` does, without making one of numbers."""
    ops, kernel, output = 0.0, 0.0, 0.0
    held: Dict[int, int] = {}
    waiting = [root]
    for layer in waiting:
        ops, kernel, output = ops + layer.ops, kernel + layer.kernel, output + layer.output
        held.update(layer.parameters)
        waiting.extend(layer.children.values())
    return ops, float(sum(held.values())), kernel, output


@dataclass
class LayerCounts:
    """What the layers of a run cost, by their places below ``root``, and how it was run, as ``Profile`` says it.

    rules: which rule served which class.
    """

    root: Layer
    missing: Dict[str, int]
    only_moved: Dict[str, int]
    not_run: Dict[str, int]
    rules: Dict[Type[nn.Module], Optional[ForwardHook]]
    mode: str
    why: str
    leftovers: List[str]


Token = Tuple[nn.Module, Layer, Layer, int, int, Set[str]]
"""What the ledger has to know when a call ends: the module, who called it, its place, how many counted layers were
running and how many calls had been made when it began, and what the caller had run. A bare tuple, as there are
hundreds."""


class Layers(Observer):
    """Charges every call of a layer to the place in the module tree that it was made from."""

    def __init__(self, copied: ModelCopy, custom_ops: Optional[CustomOps] = None) -> None:
        self.custom_ops = custom_ops or {}
        self.missing: Dict[str, int] = {}
        self.only_moved: Dict[str, int] = {}
        self.kinds: Set[str] = set()  # of operators that the running module has run itself
        self.hooks: Dict[Type[nn.Module], Optional[ForwardHook]] = {}
        self.places = Places(copied)
        self.modules = copied.modules
        self.not_run: Dict[str, int] = {}
        self.root = self.places.root
        self.current = self.root
        self.counted_layers_running = 0
        self.calls = 0
        self.asking_a_rule = False
        hear_of_new_formulas()
        if self.custom_ops:
            for module in copied.modules:
                self._prepare_buffers(module)

    @staticmethod
    def _prepare_buffers(module: Any) -> None:
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
            hook = inherited_hook(type(module)) if is_leaf and MULTIPLIES not in self.kinds else None
            if hook in (None, count_nothing) and not running:
                self._charge_by_kinds(module, layer, out, is_leaf)
        if hook is not None and hook is not count_nothing:
            self._charge(module, layer, args if not kwargs else _positional(module, args, kwargs), out, hook)
        self.current, self.counted_layers_running, self.kinds = caller, running, kinds

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
            if is_of_a_signal(error):
                raise
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
        facts = facts_of(func)
        product = facts.product
        self.kinds.add(facts.kind_beside_layers)
        if product is not None:
            try:
                cost = Cost(product.formula(args, kwargs, out), weights_of(product, args, is_weight))
            except Exception as error:
                if is_of_a_signal(error):
                    raise
                self._miss(f"{facts.name} (its formula does not fit: {in_few_words(error)})")
                return
            current = self.current
            current.ops, current.kernel = current.ops + cost.ops, current.kernel + cost.kernel
            if not all(map(is_weight, tensors_in((out,)))):
                current.output += tensors_in((out,))[0].numel()

    def counts(self, outcome: Run) -> LayerCounts:
        """Return what was counted, once the run is over."""
        found = self.root, self.missing, self.only_moved, self.not_run, self.hooks
        return LayerCounts(*found, outcome.mode, outcome.why, outcome.leftovers)


@collector_paused()
def count_layers(
    model: nn.Module,
    inputs: Sequence[Any],
    custom_ops: Optional[CustomOps] = None,
    kwargs: Optional[Dict[str, Any]] = None,
    drive: Optional[Drive] = None,
) -> LayerCounts:
    """Run ``model`` once for the layers alone; the arguments are those of ``profile`` and of ``run``."""
    outcome = run(model, inputs, partial(Layers, custom_ops=custom_ops), kwargs=kwargs, drive=drive)
    counted: LayerCounts = outcome.observer.counts(outcome)
    return counted


def _samples(out: Any) -> int:
    """Count the samples that one call stands for under ``torch.vmap``, where a tensor shows one of them."""
    factor = 1
    whole = whole_batch(out) if isinstance(out, Tensor) else None
    while whole is not None:
        factor *= whole.numel() // max(out.numel(), 1)
        out, whole = whole, whole_batch(whole)
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
