"""The sentences below the table: where most of the traffic is, what would save some, and what was left out."""

from typing import Dict, List, Optional, Tuple, Union

from torch import nn

from ..profile import Profile
from ..traffic import Traffic
from ..units import readable, readable_bytes
from .table import View, part
from .tree import ITSELF, Node, Row, addends, choose

_MOST_NAMES = 6
_FEWEST_MODULES = 4


def findings(root: Node, view: View) -> List[str]:
    """Say where the traffic is (the accesses, where no bytes are known), and what would save some."""
    if not view.weight(view.total):
        return []
    found = [_where(root, view), _by_type(root, view)]
    marked = view.marked()
    if marked:
        share = part(sum(view.weight(row.numbers) for row in marked), view.weight(view.total))
        rows = "largest row" if len(marked) == 1 else f"{len(marked)} largest rows"
        found.append(f"* marks the {rows}, {share:.1%} of {_measure(view)}.{_legend(view)}")
    return [text for text in found if text]


def _legend(view: View) -> str:
    """How the rows add up."""
    texts = []
    if not view.flat and any(row.is_sum for row in view.rows):
        texts.append("A row with indented rows below it is their sum")
    if any(row.itself for row in view.rows):
        texts.append(f"{ITSELF} is what a module does outside of its parts")
    return f" {'; '.join(texts)}." if texts else ""


def _measure(view: View) -> str:
    return "the bytes" if view.has_bytes else "the accesses"


def _where(root: Node, view: View) -> str:
    """Name the modules that make half of it."""
    modules = sorted(_main_modules(root), key=lambda row: view.weight(row.numbers), reverse=True)
    if len(modules) < _FEWEST_MODULES:
        return ""
    total = view.weight(view.total)
    shares = [part(view.weight(row.numbers), total) for row in modules]
    half = next(n for n in range(1, len(shares) + 1) if sum(shares[:n]) >= 0.5 or n == len(shares))
    count = min(half, _MOST_NAMES)
    names = ", ".join(
        f"{row.path}{' itself' * row.itself} ({share:.1%})" for row, share in zip(modules[:count], shares)
    )
    verb = "moves" if count == 1 else "move"
    return f"{count} of {len(modules)} modules {verb} {sum(shares[:count]):.1%} of {_measure(view)}: {names}."


def _main_modules(root: Node) -> List[Row]:
    """The rows of the first level that tells several modules apart."""
    rows: List[Row] = []
    for depth in range(1, 4):
        rows = addends(choose(root, depth))
        if len(rows) >= _FEWEST_MODULES:
            break
    return rows


def _by_type(root: Node, view: View) -> str:
    """Name the kinds of layers that move the most, and what fusing would save where the model can be fused."""
    by_type: Dict[str, float] = {}
    for node in root.walk():
        by_type[node.type] = by_type.get(node.type, 0) + view.weight(node.own)
    total = view.weight(view.total)
    largest = sorted(by_type.items(), key=lambda item: item[1], reverse=True)[:3]
    kinds = ", ".join(f"{kind} {part(value, total):.1%}" for kind, value in largest if value)
    sentence = f"By type, {kinds} of {_measure(view)}."
    count, saved = _fusible(root)
    if count and view.has_bytes:
        sentence += (
            f" model.fuse() would save about {readable_bytes(saved)} ({part(saved, total):.1%}): it folds "
            f"{count} BatchNorm2d into the convolutions before them."
        )
    return sentence


def _fusible(root: Node) -> Tuple[int, float]:
    """Count the normalisations, and their bytes, that the model's own ``fuse`` would fold into a convolution."""
    if not hasattr(root.layer.kind, "fuse"):
        return 0, 0.0
    bytes_of = []
    for node in root.walk():
        if not any(hasattr(node.layer.kind, name) for name in ("forward_fuse", "fuseforward")):
            continue
        for child in node.children:
            if child.path == f"{node.path}.bn" and issubclass(child.layer.kind, nn.BatchNorm2d):
                bytes_of.append(child.own.bytes)
    return len(bytes_of), float(sum(bytes_of))


def idle_parts(not_run: Dict[str, int], in_training: Optional[Dict[str, int]], parameters: int) -> List[str]:
    """Name modules that the evaluation did not run, those first that training does; with their share of parameters."""
    ends: Dict[str, List[str]] = {}
    for name in not_run:
        end = "" if in_training is None else ", nor in training" if name in in_training else ", in training only"
        ends.setdefault(end, []).append(name)
    return [
        f"Not run in evaluation{end}: {_some(names)} ({readable(sum(not_run[name] for name in names))} of "
        f"{readable(parameters)} parameters)."
        for end, names in sorted(ends.items(), reverse=True)
    ]


def reservations(profile: Profile, traffic: Optional[Traffic], error: str) -> List[str]:
    """Say what was left out or assumed, and where."""
    notes = []
    if traffic is None:
        notes.append(f"Bytes not counted: {error}.")
    counted = "" if traffic is None else "; their bytes are counted"
    if profile.only_moved:
        notes.append(f"Not among the accesses, as they only move data: {_calls(profile.only_moved)}{counted}.")
    if profile.missing:
        notes.append(f"Not among the accesses, for want of a rule: {_calls(profile.missing)}{counted}.")
    for assumption, operators in _by_assumption(traffic).items():
        notes.append(f"Not exact: {_calls(operators)}: {assumption}.")
    ledgers: List[Tuple[str, Union[Profile, Traffic, None]]] = [("Accesses", profile), ("Bytes", traffic)]
    for what, ledger in ledgers:
        if ledger is not None and ledger.mode == "real":
            depends = "they may depend on the weights' values"
            notes.append(f"{what} were counted in a real forward pass: {ledger.why}; {depends}.")
        if ledger is not None and ledger.leftovers:
            notes.append(f"{what}: {', '.join(ledger.leftovers)}, where the model's code had put it.")
    return notes


def _by_assumption(traffic: Optional[Traffic]) -> Dict[str, Dict[str, int]]:
    grouped: Dict[str, Dict[str, int]] = {}
    for operator, (calls, assumption) in (traffic.uncounted if traffic else {}).items():
        grouped.setdefault(assumption, {})[operator] = calls
    return grouped


def _calls(counts: Dict[str, int]) -> str:
    return _some([f"{name} ({calls} call{'s' * (calls != 1)})" if calls else name for name, calls in counts.items()])


def _some(named: List[str]) -> str:
    more = len(named) - _MOST_NAMES
    return ", ".join(named[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
