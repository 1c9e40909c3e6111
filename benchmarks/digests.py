"""Write down all that the program answers on the sweep's networks, to compare two versions of it bit for bit.

    python benchmarks/digests.py run CHECKOUT OUT.jsonl [timm:resnet* ...]   by the utils/ of a checkout, this one's: .
    python benchmarks/digests.py compare ONE.jsonl OTHER.jsonl
    python benchmarks/digests.py table OUT.csv [timm:resnet* ...]   totals and traffic against those of docs/sweep.csv

What is done is kept: run it again to go on. Each line of a JSON file is one network: its totals, and digests of its
layers' rows, its operators' calls, its launches under each runtime, its predictions, and its training step where that
takes less than 40 GFLOPs.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import hashlib
import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Callable

HERE = Path(__file__).resolve().parents[1]
RUNTIMES = ("tensorrt", "rknn", "ncnn", "horizon", "pulsar2", "pytorch", "pytorch-cpu")
DEVICES = ("rk3588", "t4", "raspberry-pi-5")
LARGE = 40e9


def digest(value: Any) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _rows(rows: Any) -> list[Any]:
    return [(r.path, r.operator, r.calls, r.flops, r.read_bytes, r.written_bytes, r.output_shape) for r in rows]


def _launches_under(network: Any, name: str) -> list[Any]:
    from utils.thop.deploy.runtimes import find_runtime

    network = network.under(find_runtime(name), "float32")
    return [
        (one.operators, one.layers, one.flops, one.weight_elements, one.read_elements, one.written_elements)
        for one in network.launches
    ]


def _prediction(network: Any, name: str) -> Any:
    from utils.thop import predict
    from utils.thop.deploy.devices import find_device
    from utils.thop.deploy.prediction import place_on

    runtime, precision = place_on(find_device(name), None, None)
    found = predict(network.under(runtime, precision), name)
    return found.seconds, found.low, found.high, found.launch_count, found.uncounted


def _step(model: Any, inputs: Any) -> Any:
    from utils.thop import training

    found = training(model, inputs, amp=False)
    phases = [(phase.flops, phase.read_bytes, phase.written_bytes) for phase in (found.forward, found.backward)]
    return found.peak, found.peak_at, list(found.kept_by_layer), found.gradients, found.optimizer_state, phases


def _said(answer: Callable[[], Any]) -> str:
    """The digest of an answer, or of what was said instead."""
    try:
        return digest(answer())
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]


def answers(model: Any, inputs: Any) -> dict[str, Any]:
    """All that is answered on one network."""
    from utils.thop import deployed, profile, traffic

    counted = profile(model, inputs, verbose=False)
    moved = traffic(model, inputs)
    calls = [(c.operator, c.layer.path, c.flops, c.read_bytes, c.written_bytes, str(c.dtype)) for c in moved.calls]
    found: dict[str, Any] = {
        "totals": [*counted, counted.mode, moved.flops, moved.read_bytes, moved.written_bytes],
        "named": digest((counted.missing, counted.only_moved, counted.not_run, moved.uncounted)),
        "peak": moved.peak_activation_bytes,
        "layers": digest([(r.path, r.ops, r.kernel, r.output, r.calls, tuple(r.output_shape)) for r in counted.layers]),
        "rows": digest(_rows(moved.layers)),
        "calls": digest(calls),
    }
    network = deployed(model, inputs, RUNTIMES[0])
    for name in RUNTIMES:
        found[name] = _said(partial(_launches_under, network, name))
    for name in DEVICES:
        found[name] = _said(partial(_prediction, network, name))
    if moved.flops < LARGE:
        found["training"] = _said(lambda: _step(model, inputs))
    return found


def _set_up() -> None:
    """One thread, no network, and a release whose package is found."""
    import torch

    from benchmarks.common import use_release

    torch.set_num_threads(1)
    os.environ.setdefault("YOLO_OFFLINE", "true")
    use_release()


def _run(checkout: str, out: Path, patterns: list[str]) -> None:
    from tqdm import tqdm

    from benchmarks.zoo import FAMILIES, build_without_values

    _set_up()
    done = {json.loads(line)["name"] for line in out.read_text().splitlines()} if out.exists() else set()
    names = [f"{family}:{name}" for family, found in FAMILIES.items() for name in found.names()]
    wanted = [name for name in names if not patterns or any(fnmatch.fnmatch(name, each) for each in patterns)]
    with out.open("a") as file:
        for name in tqdm([name for name in wanted if name not in done]):
            family, _, network = name.partition(":")
            try:
                model, _ = build_without_values(family, network)
                found = answers(model, FAMILIES[family].inputs(network, model, "meta"))
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {error}"[:200]}
            file.write(json.dumps({"name": name, **found}) + "\n")
            file.flush()


COLUMNS = ("ops", "kernel", "output", "flops", "read_bytes", "written_bytes")


def _against_the_table(out: Path, patterns: list[str]) -> int:
    """Count networks of docs/sweep.csv again, and name those that differ; returns 1 where there are such."""
    from tqdm import tqdm

    from benchmarks.zoo import FAMILIES, build_without_values
    from utils.thop import profile, traffic

    _set_up()
    with (HERE / "docs/sweep.csv").open(newline="") as file:
        rows = {f"{row['family']}:{row['name']}": row for row in csv.DictReader(file) if row["run"] == "shape"}
    done = dict(csv.reader(out.open(newline=""))) if out.exists() else {}
    wanted = [name for name in rows if not patterns or any(fnmatch.fnmatch(name, each) for each in patterns)]
    with out.open("a", newline="") as file:
        for name in tqdm([name for name in wanted if name not in done]):
            family, _, network = name.partition(":")
            try:
                model, _ = build_without_values(family, network)
                inputs = FAMILIES[family].inputs(network, model, "meta")
                counted, moved = profile(model, inputs, verbose=False), traffic(model, inputs)
                found = counted[0], counted[2], counted[3], moved.flops, moved.read_bytes, moved.written_bytes
                differs = [key for key, value in zip(COLUMNS, found) if float(value) != float(rows[name][key])]
                done[name] = " ".join(differs)
            except Exception as error:
                done[name] = f"{type(error).__name__}: {error}"[:200]
            csv.writer(file).writerow((name, done[name]))
            file.flush()
    different = {name: done[name] for name in wanted if done[name]}
    for name, what in different.items():
        print(name, what)
    print(f"{len(wanted)} networks, {len(different)} of them differ")
    return int(bool(different))


def _compare(one: Path, other: Path) -> int:
    read = [{(row := json.loads(line))["name"]: row for line in path.read_text().splitlines()} for path in (one, other)]
    both = [name for name in read[0] if name in read[1]]
    different = {name: [key for key in read[0][name] if read[0][name][key] != read[1][name].get(key)] for name in both}
    for name, keys in different.items():
        if keys:
            print(name, *keys)
    print(f"{len(both)} networks in both, {sum(map(bool, different.values()))} of them differ")
    return int(any(different.values()))


def main() -> int:
    """Run or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("checkout")
    run.add_argument("out", type=Path)
    run.add_argument("patterns", nargs="*")
    table = commands.add_parser("table")
    table.add_argument("out", type=Path)
    table.add_argument("patterns", nargs="*")
    compare = commands.add_parser("compare")
    compare.add_argument("one", type=Path)
    compare.add_argument("other", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "compare":
        return _compare(arguments.one, arguments.other)
    warnings.simplefilter("ignore")
    if arguments.command == "table":
        sys.path[:0] = [str(HERE), str(HERE / "tests")]
        return _against_the_table(arguments.out, arguments.patterns)
    sys.path[:0] = [str(Path(arguments.checkout).resolve()), str(HERE), str(HERE / "tests")]
    _run(arguments.checkout, arguments.out, arguments.patterns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
