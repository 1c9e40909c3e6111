"""What is known of an operator, looked up once: what it does, multiplies and moves, and what had to be assumed."""

from typing import Any, Dict, NamedTuple, Optional, Tuple

from ..charges import ASSUMED_ONCE, DATA_DEPENDENT, NO_FORMULA, POOLS_WITH_INDICES, SPECIAL_CASES, Charge, reserved
from ..products import NAMED_IN_PASSING, Product, flop_registry, kind_of, product_of
from ..run import Effects, effects_of

_WRITES_OVER = frozenset(("aten::copy_", "aten::fill_", "aten::zero_", "aten::normal_", "aten::uniform_"))


class OperatorFacts(NamedTuple):
    """What all calls of an operator have in common.

    func: itself, which keeps its identity in use; name: as in its schema, ``operator`` without ATen's namespace; kind:
    as ``kind_of`` names it, kind_beside_layers: what a forward is charged with, or named for; charge: what it moves
    where its schema can't tell; assumption: what is not exact about that, or about its products.
    """

    func: Any
    name: str
    operator: str
    effects: Effects
    is_view: bool
    makes_memory: bool
    writes_over: bool
    kind: str
    kind_beside_layers: str
    product: Optional[Product]
    charge: Optional[Charge]
    has_row: bool
    makes_indices: bool
    assumption: str


_KNOWN: Dict[int, OperatorFacts] = {}  # by identity: operators hash in Python
_REGISTERED: Dict[Any, Any] = {}


def facts_of(func: Any) -> OperatorFacts:
    """Return what is known of an operator."""
    known = _KNOWN.get(id(func))
    if known is None:
        known = _KNOWN[id(func)] = _look_up(func)
    return known


def hear_of_new_formulas() -> None:
    """Forget what was looked up if somebody has entered or taken away a formula for FLOPs since."""
    registered = flop_registry()
    if registered != _REGISTERED:
        _KNOWN.clear()
        _REGISTERED.clear()
        _REGISTERED.update(registered)


def _look_up(func: Any) -> OperatorFacts:
    effects, name = effects_of(func), func._schema.name
    product = product_of(func)
    kind = kind_of(func, product)
    charge = SPECIAL_CASES.get(name)
    return OperatorFacts(
        func=func,
        name=name,
        operator=name.replace("aten::", ""),
        effects=effects,
        is_view=effects.is_view or effects.is_plain_view,
        makes_memory=any(effects.new_results),
        writes_over=name in _WRITES_OVER,
        kind=kind,
        kind_beside_layers=name if name in NAMED_IN_PASSING else kind or name,
        product=product,
        charge=charge,
        has_row=charge is not reserved,
        makes_indices=name in POOLS_WITH_INDICES,
        assumption="; ".join(_assumptions(name, kind)),
    )


def _assumptions(name: str, kind: str) -> Tuple[str, ...]:
    moved = DATA_DEPENDENT.get(name) or ("" if name.startswith(("aten::", "prim")) else ASSUMED_ONCE)
    return tuple(filter(None, (moved, "" if kind else NO_FORMULA)))
