"""The places of a model's module tree, to which calls are charged.

A module that is held in several places has a row in each; what is inside of it is planted at the first one, and at
another one only once it is called there. So the tree is no larger than the model and its calls.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Dict, Iterable, Iterator, List, Optional, Set, Tuple, Type

from torch import nn

from ..run import ModelCopy, is_unread, lacks_shapes, parameter_sizes
from .layer_rules import ForwardHook


@dataclass
class Layer:
    """One place in the module tree, and what the calls made there cost; its parts' costs are theirs.

    path: name from the root, as in ``named_modules()``; kind: the module's class; parameters: elements of its own
    parameters, by an identity that tells shared ones (of all below it, where its parts are shown at ``first`` alone);
    output_shape: of the last call's first tensor. What it costs itself has the names of a module's buffers too:
    total_ops, total_params, total_kernel_macs, total_output_macs.
    """

    name: str
    path: str
    kind: Type[nn.Module]
    parameters: Dict[int, int] = field(default_factory=dict, repr=False)
    children: Dict[int, "Layer"] = field(default_factory=dict, repr=False)
    ops: float = 0
    kernel: float = 0
    output: float = 0
    calls: int = 0
    output_shape: Tuple[int, ...] = ()
    hook: Optional[ForwardHook] = field(default=None, repr=False)
    parent: Optional["Layer"] = field(default=None, repr=False, compare=False)
    first: Optional["Layer"] = field(default=None, repr=False, compare=False)

    total_ops = property(lambda self: float(self.ops))
    total_params = property(lambda self: float(sum(self.parameters.values())))
    total_kernel_macs = property(lambda self: float(self.kernel))
    total_output_macs = property(lambda self: float(self.output))

    def walk(self) -> Iterator["Layer"]:
        """Yield this layer and all below it, depth first."""
        waiting = [self]
        while waiting:
            layer = waiting.pop()
            yield layer
            waiting.extend(reversed(list(layer.children.values())))


class Places:
    """The tree, and the way from a call to its place."""

    def __init__(self, copied: ModelCopy) -> None:
        self.unregistered = copied.unregistered
        self.first: Dict[int, Layer] = {}
        self.below: Dict[int, Dict[int, Layer]] = {}
        self.lazy: Dict[int, nn.Module] = {}  # whose parameters have no shape before they are run
        self.again: List[Layer] = []  # further places of modules that have one already
        self.root_key = id(copied.model)
        self.root = self._plant("", "", copied.model, None, set())

    def _plant(self, name: str, path: str, module: nn.Module, parent: Optional[Layer], above: Set[int]) -> Layer:
        """Make the place of a module and, if it is its first, those inside; a module inside itself is left out."""
        key = id(module)
        first = self.first.get(key)
        layer = Layer(name, path, type(module), parameter_sizes(module), parent=parent, first=first)
        if lacks_shapes(module):
            self.lazy[key] = module
        if first is not None:
            self.again.append(layer)
            return layer
        self.first[key] = layer
        parts = module._modules.items()
        if key in self.unregistered:
            parts = [*parts, *self.unregistered[key]]  # type: ignore[assignment]
        if parts:
            above.add(key)
            children = layer.children
            for child_name, child in parts:
                if child is None or id(child) in above or id(child) in children:
                    continue
                child_path = f"{path}.{child_name}" if path else child_name
                children[id(child)] = self._plant(child_name, child_path, child, layer, above)
            above.discard(key)
        return layer

    def of_call(self, module: nn.Module, caller: Layer) -> Layer:
        """Find the place of a call: the caller's own part, or the nearest one below it, or below those above it."""
        key = id(module)
        place = caller.children.get(key)
        if place is None:
            place = self._distant(module, key, caller)
        if place.first is not None and not place.children and place.first.children:
            self._unfold(place)
        return place

    def _distant(self, module: nn.Module, key: int, caller: Layer) -> Layer:
        """Find, or make, the place of a module that is not a part of its caller."""
        place = self._parts_below(caller).get(key)
        above = caller.parent
        while place is None and above is not None:
            place, above = self._parts_below(above).get(key), above.parent
        if place is None:
            place = self.root if key == self.root_key else self._join(module, caller)
        self.below[id(caller)][key] = place
        return place

    def _unfold(self, place: Layer) -> None:
        """Plant what is inside of a module at another of its places too."""
        assert place.first is not None
        for key, child in place.first.children.items():
            path = f"{place.path}.{child.name}" if place.path else child.name
            copied = Layer(child.name, path, child.kind, child.parameters, parent=place, first=self.first[key])
            place.children[key] = copied
            self.again.append(copied)

    def _parts_below(self, place: Layer) -> Dict[int, Layer]:
        """Return for each module below a place the nearest of its places there."""
        known = self.below.get(id(place))
        if known is not None:
            return known
        found: Dict[int, Layer] = {}
        waiting = deque([place])
        while waiting:
            layer = waiting.popleft()
            if layer.first is not None and not layer.children:
                self._unfold(layer)
            for key, child in layer.children.items():
                if key not in found:
                    found[key] = child
                    waiting.append(child)
        self.below[id(place)] = found
        return found

    def _join(self, module: nn.Module, caller: Layer) -> Layer:
        """Make a place for a module that the model does not hold, with its caller."""
        taken = {child.name for child in caller.children.values()}
        name, number = f"({type(module).__name__})", 1
        while name in taken:
            number += 1
            name = f"({type(module).__name__} {number})"
        path = f"{caller.path}.{name}" if caller.path else name
        place = caller.children[id(module)] = self._plant(name, path, module, caller, set())
        return place

    def not_run(self, modules: Iterable[nn.Module]) -> Dict[str, int]:
        """Name the parts that nobody has called or asked for a parameter, with the elements that they alone hold."""
        idle: List[Layer] = []
        if self._find_idle(self.root, self.root_key, idle, {}) or not idle:
            return {}
        idle = []
        self._find_idle(self.root, self.root_key, idle, {id(module): module for module in modules})
        left = {id(place) for part in idle for place in part.walk()}
        used = {key for place in self.root.walk() if id(place) not in left for key in place.parameters}
        sizes = {part.path: {k: n for k, n in _parameters_inside(part).items() if k not in used} for part in idle}
        return {path: sum(held.values()) for path, held in sizes.items() if any(held.values())}

    def _find_idle(self, place: Layer, key: int, idle: List[Layer], modules: Dict[int, nn.Module]) -> bool:
        """Add the outermost places that are idle; without ``modules``, those without calls."""
        before = len(idle)
        parts = [self._find_idle(child, child_key, idle, modules) for child_key, child in place.children.items()]
        is_read = place.parameters and modules and not (key in modules and is_unread(modules[key]))
        if place.calls or place.first is not None or is_read or not all(parts):
            return False
        idle[before:] = [place]
        return True

    def note_parameters(self) -> None:
        """Note every place's parameters, which lazy layers have only after the run; there are no calls after this."""
        changed = {key: parameter_sizes(module) for key, module in self.lazy.items()}
        if self.root_key in changed:
            self.root.parameters = changed[self.root_key]
        for layer in self.root.walk() if changed else ():
            for key, child in layer.children.items():
                if key in changed:
                    child.parameters = changed[key]
        for layer in self.again:
            if _is_folded(layer):
                layer.parameters = _parameters_inside(layer)
        self.lazy, self.again, self.below, self.first, self.unregistered = {}, [], {}, {}, {}


def _is_folded(place: Layer) -> bool:
    """Say whether what is inside of a place is shown at the module's first one alone."""
    return place.first is not None and not place.children and bool(place.first.children)


def _parameters_inside(place: Layer) -> Dict[int, int]:
    """Return the parameters of a place and of all below it, wherever they are shown."""
    held: Dict[int, int] = {}
    seen: Set[int] = set()
    waiting = [place]
    while waiting:
        place = waiting.pop()
        if id(place) not in seen:
            seen.add(id(place))
            held.update(place.parameters)
            waiting.extend(place.children.values())
            if _is_folded(place):
                waiting.append(place.first)  # type: ignore[arg-type]
    return held
