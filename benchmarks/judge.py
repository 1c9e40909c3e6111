"""Count one network in every way there is, and say whether they agree.

Not to be run; `sweep.py` and its test import this.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Iterable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from benchmarks.zoo import FAMILIES, build_without_values
from utils.thop import profile, traffic
from utils.thop.count.record import record
from utils.thop.profile import Profile
from utils.thop.run import NotCountable, in_few_words
from utils.thop.traffic import Traffic, traffic_of

FILTERS = ("Conv1d", "Conv2d", "Conv3d", "Linear")
"""Layers each of whose outputs sums the products of one filter."""
OTHERS = (
    "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm",
    "GroupNorm", "ReLU", "ReLU6", "SiLU", "GELU", "Hardswish", "Hardsigmoid", "Sigmoid", "Tanh", "LeakyReLU", "PReLU",
    "AvgPool2d", "AdaptiveAvgPool2d",
)  # fmt: skip
"""Layers whose outputs are accesses."""
_TAKEN_APART = {"scaled_dot_product_attention", "lstm", "gru", "rnn_tanh", "rnn_relu"}  # into products, on meta
_KNOWN_TO_TORCH = {str(packet).rpartition(".")[2] for packet in flop_registry} | _TAKEN_APART


VERDICTS = ("exact", "named", "refused", "wrong", "not built")


@dataclass
class Limits:
    """Above which size a network is not run for real."""

    gflops: float = 40.0
    megabytes: float = 800.0


@dataclass
class Row:
    """One network. ops are multiply-accumulates, kernel and output elements (in the layer ledger)."""

    family: str
    name: str
    verdict: str = ""
    why: str = ""
    run: str = ""
    compared: str = ""
    parameters: float = 0
    ops: float = 0
    kernel: float = 0
    output: float = 0
    flops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass
class Seen:
    """What hooks on the layers of one class have seen: multiply-accumulates (of FILTERS), kernels, outputs."""

    ops: int = 0
    kernel: int = 0
    output: int = 0


@dataclass
class Plain:
    """A count of the model itself, which shares nothing with ours."""

    flops: int = 0
    by_class: dict[str, Seen] = field(default_factory=lambda: defaultdict(Seen))


def count_plainly(model: nn.Module, inputs: tuple[Any, ...]) -> Plain:
    """Run the model itself, on the meta device, under torch's counter, with hooks on its layers."""
    plain = Plain()
    model.requires_grad_(False)  # torch's counter stumbles over modules that hand a parameter on
    names = _plain_names(model)
    handles = [m.register_forward_hook(_hook(plain)) for m in model.modules() if type(m).__name__ in names]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    plain.flops = int(counter.get_total_flops())
    return plain


def _plain_names(model: nn.Module) -> set[str]:
    """Return the names of classes that are torch.nn's own, where no other class of the model has the same name."""
    kinds = {type(module) for module in model.modules()}
    foreign = {kind.__name__ for kind in kinds if getattr(nn, kind.__name__, None) is not kind}
    return {*FILTERS, *OTHERS} - foreign


def _hook(plain: Plain) -> Any:
    def see(module: Any, args: Any, out: Any) -> None:
        seen = plain.by_class[type(module).__name__]
        seen.output += out.numel()
        if type(module).__name__ in FILTERS:
            seen.kernel += module.weight.numel()
            seen.ops += out.numel() * module.weight[0].numel()
        elif type(module).__name__.startswith("ConvTranspose"):
            seen.kernel += module.weight.numel()

    return see


def differences(model: nn.Module, counted: Profile, moved: Traffic, plain: Plain | None) -> list[str]:
    """Return what of our count does not agree with the model's parameters, with the plain count, and with itself."""
    found: list[str] = []

    def same(what: str, ours: float, theirs: float) -> None:
        if ours != theirs:
            found.append(f"{what} {ours:.0f} for {theirs:.0f}")

    same("parameters", counted.total_params, sum({id(p): p.numel() for p in model.parameters()}.values()))
    for name in ("total_ops", "kernel", "output"):
        total = {"total_ops": 0, "kernel": 2, "output": 3}[name]
        same(f"{name} of traffic()", sum(getattr(row, name) for row in moved.layers), counted[total])
    for row in moved.layers:
        if row.type in FILTERS and row.flops != 2 * row.total_ops and row.flops:
            found.append(f"{row.path}: {row.flops} FLOPs for {row.total_ops:.0f} multiply-accumulates")
    if plain is None:
        return found
    unknown_to_torch = sum(call.flops for call in moved.calls if call.operator not in _KNOWN_TO_TORCH)
    same("FLOPs", moved.flops - unknown_to_torch, plain.flops)
    names = _plain_names(model)
    for kind, seen in plain.by_class.items():
        rows = [row for row in moved.layers if row.type == kind and kind in names]
        if kind in FILTERS:
            same(f"{kind} operations", sum(row.total_ops for row in rows), seen.ops)
        same(f"{kind} kernels", sum(row.kernel for row in rows), seen.kernel)
        same(f"{kind} outputs", sum(row.output for row in rows), seen.output)
    return found


def totals(moved: Traffic) -> dict[str, float]:
    """Return what a run with arithmetic has to agree with."""
    layers = {name: sum(getattr(row, name) for row in moved.layers) for name in ("total_ops", "kernel", "output")}
    return {**layers, "flops": moved.flops, "read": moved.read_bytes, "written": moved.written_bytes}


def count_for_real(model: nn.Module, inputs: tuple[Any, ...]) -> Traffic:
    """Return both ledgers of a run with arithmetic."""
    return traffic_of(record(model, inputs, on_shapes=False))


def judge(family: str, name: str, limits: Limits) -> Row:
    """Build a network, count it in all ways, and say what came of it."""
    row = Row(family, name)
    try:
        model, inputs, is_blank = _build(row)
    except Exception as error:
        row.verdict, row.why = "not built", in_few_words(error)
        return row
    try:
        try:
            counted, moved = profile(model, inputs, verbose=False), traffic(model, inputs)
        except NotCountable:
            if not is_blank:
                raise
            model = FAMILIES[family].build(name).eval()
            inputs = FAMILIES[family].inputs(name, model, "cpu")
            counted, moved = profile(model, inputs, verbose=False), traffic(model, inputs)
    except Exception as error:
        row.verdict, row.why = "refused", in_few_words(error)
        return row
    _note(row, counted, moved)
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    is_small = moved.flops <= limits.gflops * 1e9 and size <= limits.megabytes
    found = _compare(row, model, counted, moved, is_small)
    nameless = [*counted.missing, *moved.uncounted]
    row.verdict = "wrong" if found else "named" if nameless else "exact"
    row.why = _joined(found) or _joined(nameless) or row.why
    gc.collect()
    return row


def _build(row: Row) -> tuple[nn.Module, tuple[Any, ...], bool]:
    model, is_blank = build_without_values(row.family, row.name)
    return model, FAMILIES[row.family].inputs(row.name, model, "meta" if is_blank else "cpu"), is_blank


def _note(row: Row, counted: Profile, moved: Traffic) -> None:
    row.run = counted.mode
    row.ops, row.parameters, row.kernel, row.output = counted[:4]
    row.flops, row.read_bytes, row.written_bytes = moved.flops, moved.read_bytes, moved.written_bytes


def _compare(row: Row, model: nn.Module, counted: Profile, moved: Traffic, is_small: bool) -> list[str]:
    """Return what differs, and note what was compared."""
    inputs = FAMILIES[row.family].inputs
    compared, plain, found = ["parameters"], None, []
    try:
        plain = count_plainly(model.to("meta"), inputs(row.name, model, "meta"))
    except Exception as error:
        row.why = f"torch's own counter: {in_few_words(error)}"
    if is_small:
        real = FAMILIES[row.family].build(row.name).eval()
        try:
            if counted.mode == "shape":
                found = _unlike(moved, count_for_real(real, inputs(row.name, real, "cpu")))
                compared.append("real")
            if plain is None:
                plain = count_plainly(real, inputs(row.name, real, "cpu"))
        except Exception as error:
            found.append(f"the run with arithmetic: {in_few_words(error)}")
    if plain is not None:
        compared[1:1] = ["operators", "layers"]
        row.why = ""
    row.compared = " ".join(compared)
    return differences(model, counted, moved, plain) + found


def _unlike(moved: Traffic, real: Traffic) -> list[str]:
    ours, theirs = totals(moved), totals(real)
    return [
        f"{name} {ours[name]:.0f}, with arithmetic {theirs[name]:.0f}" for name in ours if ours[name] != theirs[name]
    ]


def _joined(parts: Iterable[str]) -> str:
    found = list(dict.fromkeys(parts))
    return "; ".join(found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")
