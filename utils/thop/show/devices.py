"""The devices that a time can be had for: a line for each, and all that is known of one."""

import re
from typing import Any, Dict, List, Mapping, Sequence

from ..deploy.devices import KINDS, THIS, Device, find_device, listed_devices
from ..deploy.runtimes import DeviceError, all_runtimes
from ..units import listed, scaled

_TITLES = {"npu": "NPUs", "gpu": "GPUs", "cpu": "CPUs"}


def matching(devices: Mapping[str, Device], word: str) -> List[Device]:
    """Return the devices of a kind, or that have a word in their name, title or runtimes; all without a word.

    Raises DeviceError where there is none, with the names that come close.
    """
    wanted = word.lower().rstrip("s") if word.lower().rstrip("s") in KINDS else word.lower()
    begins = re.compile(rf"(?<![a-z0-9]){re.escape(wanted)}")
    found = []
    for one in listed_devices(devices):
        words = " ".join([one.name, one.title, *one.aliases, *one.runtimes]).lower()
        if wanted == one.kind or begins.search(words):
            found.append(one)
    if not found:
        find_device(word)  # which says what comes close
        raise DeviceError(f"no device has {word!r} in its name, title or runtimes")
    return found


def devices_text(devices: Sequence[Device]) -> str:
    """A line for each device, by kind: name, title, runtimes with how far predictions are typically off."""
    name, title = (max(len(getattr(device, part)) for device in devices) for part in ("name", "title"))
    lines: List[str] = []
    for kind in sorted({device.kind for device in devices}, key=list(_TITLES).index):
        alike = [device for device in devices if device.kind == kind]
        rows = [f"  {one.name:<{name}}  {one.title:<{title}}  {_runtimes(one)}" for one in alike]
        lines += [_TITLES[kind], *rows, ""]
    return "\n".join([
        *lines,
        f"{THIS}: the machine that the command runs on, measured for half a second",
        "Behind a runtime: how far off predictions of networks were that were left out, on average.",
        "One device with all its figures and sources: devices NAME",
    ])  # fmt: skip


def _runtimes(device: Device) -> str:
    """The runtimes with their errors; of a device that was not measured, that it was not."""
    found = []
    for name, known in device.runtimes.items():
        error = known.basis.error
        found.append(f"{name} {error - 1:.0%}" if error else f"{name} ({known.basis.networks} networks)")
    refused = device.usual and all_runtimes()[device.usual].refuses
    return ", ".join(found) or ("published times alone" if refused else "its data sheet alone")


def _figures(device: Device) -> Dict[str, float]:
    """What is known of its data sheet."""
    found = {"bandwidth": device.bandwidth, "memory": device.memory, **device.peaks}
    return {name: value for name, value in found.items() if value}


def device_text(device: Device) -> str:
    """All that is known of one device: figures with their sources, runtimes, what else it is called."""
    lines = [f"{device.name}: {device.title}"]
    if device.aliases:
        lines.append(f"  also called {listed(device.aliases, ' or ')}")
    for what, names in device.variants.items():
        lines.append(f"  --{what} {listed(names, ' or ')}: measured apart")
    for name, value in _figures(device).items():
        unit = {"bandwidth": "B/s", "memory": "B"}.get(name, "OP/s" if name.startswith("int") else "FLOP/s")
        number = scaled(value, "%.4g ", " ") + unit
        lines.append(f"  {name:<9}  {number:>12}  {device.sources.get(name, '')}".rstrip())
    for name, known in device.runtimes.items():
        basis = known.basis
        off = f", {basis.error - 1:.0%} off where they were left out" if basis.error else " and devices like it"
        what = f"{all_runtimes()[name].title} ({name}), {', '.join(known.precisions)}"
        lines.append(f"  {what}: {basis.networks} networks{off}: {basis.source}")
    return "\n".join(lines)


def device_records(device: Device) -> List[Dict[str, Any]]:
    """A record for each figure of a device, in base units."""
    head = {"device": device.name, "title": device.title, "kind": device.kind}
    rows = [
        {**head, "figure": name, "value": value, "source": device.sources.get(name, "")}
        for name, value in _figures(device).items()
    ]
    for runtime, known in device.runtimes.items():
        basis = {"source": known.basis.source, "networks": known.basis.networks, "error": known.basis.error or None}
        for precision in known.precisions:
            figure = {"figure": f"{runtime} {precision}", "value": known.constants(precision).peak}
            rows.append({**head, **figure, **basis})
    return rows
