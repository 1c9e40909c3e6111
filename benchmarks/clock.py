"""Fit the clock to the published tables, and say how far it is off.

    python benchmarks/clock.py [--calibrate] [--plot FOLDER] [--details]

Prints a row for each table: how far predictions are off, as a geometric mean of factors, by GFLOPs alone with the best
constant, by activations alone likewise, and by launches: fitted to all networks, and for each network by constants
fitted to the others. With --calibrate, the figures are written to utils/thop/deploy/devices.yaml. Takes about four
minutes.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
import yaml  # noqa: E402
from common import use_release  # noqa: E402
from published import builder, network  # noqa: E402
from tqdm import tqdm  # noqa: E402

from utils.thop.deploy.clock import Work, work_of  # noqa: E402
from utils.thop.deploy.devices import CATALOGUE, load_devices  # noqa: E402
from utils.thop.deploy.figures import Figures  # noqa: E402
from utils.thop.deploy.fitting import Fit, Measured, fit_scale, fit_together, mean_factor  # noqa: E402
from utils.thop.deploy.launches import as_deployed  # noqa: E402
from utils.thop.deploy.measurements import Measurement, published  # noqa: E402
from utils.thop.deploy.runtimes import RUNTIMES  # noqa: E402
from utils.thop.deploy.sheets import sheet_constants  # noqa: E402
from utils.thop.flow import Flow  # noqa: E402


class Counted(NamedTuple):
    """A published speed, and what was counted of its network."""

    measured: Measurement
    works: list[Work]
    flops: float
    activations: float


@dataclass
class Table:
    """A published table, or the part of one at a batch size: what was predicted of networks left out."""

    device: str
    runtime: str
    precision: str
    batch: int
    rows: list[Counted] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    fit: Fit | None = None

    @property
    def title(self) -> str:
        """Whose table it is."""
        size = "" if self.batch in (1, 0) else f", batch {self.batch}"
        return f"{self.device}, {RUNTIMES[self.runtime].title}, {self.precision}{size}"

    def alone(self, name: str) -> float:
        """How far predictions are off that take time for proportional to one number of a network."""
        found = [getattr(row, name) / row.measured.seconds for row in self.rows]
        return mean_factor([ratio / statistics.median(found) for ratio in found])


@lru_cache(maxsize=1)
def _flow(model: str, shape: tuple[int, ...], precision: str) -> Flow:
    """Count a network, once where a table has it for several devices in a row."""
    return network(next(m for m in published() if (m.model, m.shape, m.precision) == (model, shape, precision)))


def read_tables() -> dict[tuple[str, str], list[Counted]]:
    """Count every published network that can be built, by device and runtime."""
    found: dict[tuple[str, str], list[Counted]] = {}
    for measured in tqdm(published(), desc="counting the published networks", unit="row", file=sys.stderr):
        if measured.runtime == "rknn" and measured.precision != "int8":
            continue  # a handful in float16, none of which a package here builds as it was measured
        try:
            builder(measured)
        except KeyError:
            continue
        flow = _flow(measured.model, measured.shape, measured.precision)
        deployed = as_deployed(flow, RUNTIMES[measured.runtime], measured.decode)
        works = work_of(deployed, measured.precision)
        activations = float(sum(row.output for row in flow.traffic.layers))
        counted = Counted(measured, works, float(deployed.flops), activations)
        found.setdefault((measured.device, measured.runtime), []).append(counted)
    return found


def fit_device(device: str, runtime: str, rows: list[Counted]) -> dict[str, Fit]:
    """Fit a device's figures, by precision; one scale on top of its data sheet where there are hundreds of networks."""
    groups: dict[str, list[Measured]] = {}
    for row in rows:
        groups.setdefault(row.measured.precision, []).append(Measured(row.works, row.measured.seconds))
    if "amp" in groups:
        sheet = sheet_constants(load_devices()[device], RUNTIMES[runtime], "amp")
        return {"amp": fit_scale(groups["amp"], sheet)}
    return fit_together(groups, RUNTIMES[runtime].fitted)


def tables_of(device: str, runtime: str, rows: list[Counted]) -> list[Table]:
    """Fit a device and give each network's prediction to the table that it stands in."""
    fits = fit_device(device, runtime, rows)
    ratios = {precision: iter(found.ratios) for precision, found in fits.items()}
    tables: dict[tuple[str, int], Table] = {}
    for row in rows:
        measured = row.measured
        batch = 0 if measured.precision == "amp" else measured.shape[0]
        which = measured.precision, batch
        table = tables.setdefault(which, Table(device, runtime, *which, fit=fits[measured.precision]))
        table.rows.append(row)
        table.ratios.append(next(ratios[measured.precision]))
    return list(tables.values())


# ---- what is printed and written ----


def markdown(tables: Sequence[Table]) -> str:
    """The table of docs/clock.md: how far predictions are off."""
    heads = "published speeds", "networks", "GFLOPs alone", "activations alone", "fitted", "left out", "constants"
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for table in tables:
        assert table.fit is not None
        off = [f"x {factor:.2f}" for factor in (table.alone("flops"), table.alone("activations"), table.fit.own_error)]
        constants = ", ".join(table.fit.fitted)
        left_out = f"**x {mean_factor(table.ratios):.3f}**"
        lines.append(f"| {table.title} | {len(table.rows)} | {' | '.join(off)} | {left_out} | {constants} |")
    return "\n".join(lines)


def details(table: Table) -> str:
    """Each network of a table with its prediction."""
    rows = sorted(zip(table.ratios, table.rows), key=lambda pair: pair[0])
    lines = [table.title]
    for ratio, row in rows:
        milliseconds = row.measured.seconds * 1e3
        predicted = milliseconds * ratio
        lines.append(f"{row.measured.model:40} {milliseconds:10.3f} ms, left out {predicted:10.3f}, x {ratio:.2f}")
    return "\n".join(lines)


def write_figures(tables: Sequence[Table]) -> None:
    """Put the fitted figures into devices.yaml, in place of those that are there; the rest of the file stays."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    for table in tables:
        assert table.fit is not None
        figures = Figures.of(table.fit, table.rows[0].measured.source)
        found.setdefault(table.device, {}).setdefault(table.runtime, {})[table.precision] = figures.entry()
    CATALOGUE.write_text(with_runtimes(CATALOGUE.read_text(encoding="utf-8"), found), encoding="utf-8")


def with_runtimes(text: str, figures: dict[str, dict[str, dict[str, object]]]) -> str:
    """Replace what stands under `runtimes:` of each device in the text of devices.yaml."""
    text = re.sub(r"^  runtimes:\n(?:    .*\n)+", "", text, flags=re.MULTILINE)
    for device, runtimes in figures.items():
        dumped = yaml.safe_dump({"runtimes": runtimes}, sort_keys=False, width=110)
        block = "".join(f"  {line}\n" for line in dumped.splitlines())
        entry = re.search(rf"^{re.escape(device)}:\n(?:  .*\n)+", text, flags=re.MULTILINE)
        assert entry is not None, f"devices.yaml has no entry for {device}"
        text = text[: entry.end()] + block + text[entry.end() :]
    return text


def main() -> None:
    """Count, fit, print, and write or draw what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calibrate", action="store_true", help="write the figures to devices.yaml")
    parser.add_argument("--details", action="store_true", help="show every network")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw predicted against published there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    use_release()
    networks = read_tables()
    tables: list[Table] = []
    for (device, runtime), rows in tqdm(networks.items(), desc="fitting", unit="device", file=sys.stderr):
        tables += tables_of(device, runtime, rows)
    print(markdown(tables))
    if arguments.details:
        print("\n\n".join(["", *map(details, tables)]))
    if arguments.calibrate:
        write_figures(tables)
        print(f"\nwritten to {CATALOGUE.relative_to(ROOT)}")
    if arguments.plot:
        from utils.thop.show.clock_plot import Point, clock_figure
        from utils.thop.show.plots import save_figure

        points: dict[str, list[Point]] = {table.title: [] for table in tables}
        for table in tables:
            for ratio, row in zip(table.ratios, table.rows):
                points[table.title].append(Point(row.measured.seconds, row.measured.seconds * ratio))
        save_figure(clock_figure(points), arguments.plot / "clock.png")


if __name__ == "__main__":
    main()
