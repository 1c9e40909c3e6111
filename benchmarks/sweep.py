"""Count every network of timm, torchvision, ultralytics and YOLOv5 7.0, each of them in several ways.

    python benchmarks/sweep.py                          all of them (hours; what is done is kept, run it again to go on)
    python benchmarks/sweep.py timm:resnet* yolov5      some families, or networks by pattern
    python benchmarks/sweep.py --fresh                  forget what is done
    python benchmarks/sweep.py --output docs/sweep.csv  where the table goes (.cache/sweep/sweep.csv)
    python benchmarks/sweep.py --workers 4              processes (the number of processors)

What is compared with our two ledgers, of a run without values:

    parameters    the sum over the model's parameters
    operators     torch's FlopCounterMode around the model itself, on the meta device
    layers        by class: what hooks on the model's own layers see pass; by layer: the one ledger against the other
    real          both ledgers of a run with arithmetic, where the network is small enough (--real-gflops, --real-mb)

A network is "exact" where all agree and everything that ran has its number; "named" where all agree and the result
names what has none; "refused" where there is one line that says why there is no count; "wrong" where anything differs.
"not built" are those whose constructors fail here, or need the network. Exit status 1 if any is wrong.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import pandas as pd
from releases import CACHE
from tqdm import tqdm

from benchmarks.common import use_release
from benchmarks.judge import VERDICTS, Limits, Row, judge
from benchmarks.zoo import FAMILIES

FOLDER = CACHE / "sweep"
DONE = FOLDER / "done.jsonl"
TIMEOUT_S = 600


# ---- processes ----


def _work(connection: Any, limits: Limits) -> None:
    """Examine what comes through the pipe, in a process of its own, which a broken network may take down."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.setdefault("YOLO_OFFLINE", "true")
    use_release()
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        while True:
            family, name = connection.recv()
            connection.send(asdict(judge(family, name, limits)))


class Worker:
    """A process that examines networks one by one, and is replaced when it dies or hangs."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.process: Any = None

    def examine(self, family: str, name: str) -> Row:
        """Examine one network there."""
        if self.process is None:
            self.connection, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("spawn")
            self.process = context.Process(target=_work, args=(theirs, self.limits), daemon=True)
            self.process.start()
            theirs.close()
        try:
            self.connection.send((family, name))
            if self.connection.poll(TIMEOUT_S):
                return Row(**self.connection.recv())
            why = f"no answer in {TIMEOUT_S} s"
        except (EOFError, OSError):
            why = "its process died"
        self.close()
        return Row(family, name, "wrong", why)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.process = None


def sweep(names: list[tuple[str, str]], limits: Limits, workers: int) -> None:
    """Examine networks on several processes, and note each result at once."""
    waiting: Queue[tuple[str, str]] = Queue()
    for name in names:
        waiting.put(name)
    lock = threading.Lock()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with DONE.open("a", encoding="utf-8") as done, tqdm(total=len(names), disable=None) as progress:

        def serve() -> None:
            worker = Worker(limits)
            while True:
                try:
                    family, name = waiting.get_nowait()
                except Empty:
                    return worker.close()
                row = worker.examine(family, name)
                with lock:
                    done.write(json.dumps(asdict(row)) + "\n")
                    done.flush()
                    progress.set_postfix_str(f"{name} {row.verdict}"[:48])
                    progress.update()

        threads = [threading.Thread(target=serve) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


# ---- what to do, and what came out ----


def wanted(patterns: list[str]) -> list[tuple[str, str]]:
    """Return the networks that patterns name, as (family, name): 'timm', 'timm:resnet*'."""
    found: dict[tuple[str, str], None] = {}
    for pattern in patterns or FAMILIES:
        family, _, rest = pattern.partition(":")
        if family not in FAMILIES:
            raise SystemExit(f"sweep: there is no family {family!r}; there are {', '.join(FAMILIES)}")
        names = FAMILIES[family].names()
        matching = fnmatch.filter(names, rest or "*")
        if not matching:
            raise SystemExit(f"sweep: no network of {family} is called {rest!r}")
        found.update({(family, name): None for name in matching})
    return list(found)


def read_done() -> list[Row]:
    """Return what earlier calls have found, the last word on each network."""
    if not DONE.is_file():
        return []
    rows = [Row(**json.loads(line)) for line in DONE.read_text(encoding="utf-8").splitlines()]
    return list({(row.family, row.name): row for row in rows}.values())


def report(rows: list[Row], output: Path) -> str:
    """Write the table of all networks, and return that of families."""
    table = pd.DataFrame([asdict(row) for row in rows]).sort_values(["family", "name"])
    output.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(output, index=False, float_format="%d")
    counts = pd.crosstab(table["family"], table["verdict"], margins=True, margins_name="all")
    counts = counts.reindex(columns=[*VERDICTS, "all"], fill_value=0)
    counts["real runs"] = [
        int(table[(table["family"] == family) | (family == "all")]["compared"].str.contains("real").sum())
        for family in counts.index
    ]
    return counts.to_string()


def main() -> int:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("patterns", nargs="*", metavar="FAMILY[:PATTERN]")
    parser.add_argument("--fresh", action="store_true", help="forget what is done")
    parser.add_argument("--output", type=Path, default=FOLDER / "sweep.csv")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--real-gflops", type=float, default=Limits.gflops, help="no real runs above this")
    parser.add_argument("--real-mb", type=float, default=Limits.megabytes, help="nor above this size of parameters")
    options = parser.parse_args()
    if options.fresh:
        DONE.unlink(missing_ok=True)
    use_release()
    names = wanted(options.patterns)
    done = {(row.family, row.name) for row in read_done()}
    sweep([name for name in names if name not in done], Limits(options.real_gflops, options.real_mb), options.workers)
    chosen = set(names)
    rows = [row for row in read_done() if (row.family, row.name) in chosen]
    print(report(rows, options.output))
    wrong = [row for row in rows if row.verdict == "wrong"]
    print("".join(f"wrong: {row.family}:{row.name}: {row.why}\n" for row in wrong) + f"{options.output}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
