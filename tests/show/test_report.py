"""The table of modules: its rows and sums, what stands below it, its exports, and how it looks."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Iterator

import pandas
import pytest
import torch
from torch import Tensor, nn

from utils.thop import traffic
from utils.thop.count.record import record
from utils.thop.show.report import ALL_LEVELS, ModelInfo
from utils.torch_utils import model_info

SUMS = "parameters", "total_ops", "flops", "kernel", "output", "read_bytes", "written_bytes"
NUMBER = re.compile(r"([\d.]+)([KMGT]?)B?$")


class Odd(nn.Module):
    """Parts with names that mean something to HTML and Markdown, one of them inside a list, one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("a|<b>&`*_", nn.Conv2d(3, 4, 3, padding=1))
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Sequential(nn.ReLU(), nn.Identity())])
        self.unused = nn.Conv2d(5, 5, 1)
        self.tied = nn.Conv2d(4, 4, 1)
        self.tied.weight = self.blocks[0].weight

    def forward(self, x: Tensor) -> Tensor:
        x = self._modules["a|<b>&`*_"](x)  # type: ignore[misc]
        for block in self.blocks:
            x = x + block(x)
        return self.tied(x)


class Unknowable(nn.Module):
    """A model that has to be run for real, with an operator and a layer that nobody has a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.fold = Folded()

    def forward(self, x: Tensor) -> Tensor:
        return self.fold(self.conv(x)) if x.sum() >= 0 else x


class Folded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.grid_sample(x, torch.zeros(1, 4, 4, 2, device=x.device), align_corners=False)


@pytest.fixture(name="small", scope="module")
def info_of_yolov5s(yolo: Any) -> Iterator[ModelInfo]:
    model = yolo("yolov5s.yaml")
    yield model_info(model, depth=ALL_LEVELS)  # which holds the model weakly
    del model


def number(text: str) -> float:
    """Read a number as it is printed."""
    found = NUMBER.match(text)
    assert found, text
    return float(found.group(1)) * 1000 ** " KMGT".index(found.group(2) or " ")


def body(text: str) -> list[str]:
    """The lines of a printed table between its two rules."""
    lines = text.splitlines()
    first, last = [i for i, line in enumerate(lines) if set(line) == {"-"}]
    return lines[first + 1 : last]


# ---- rows and sums ----


@pytest.mark.parametrize("cfg", ["yolov5s.yaml", "hub/yolov5s-transformer.yaml", "segment/yolov5n-seg.yaml"])
@pytest.mark.parametrize("depth", [None, 1, 2, 3, 99])
def test_columns_sum_to_the_totals(yolo: Any, cfg: str, depth: int | None) -> None:
    model = yolo(cfg)
    info = model_info(model)
    counted = traffic(model, (torch.zeros(1, 3, 640, 640),))
    sums = info.to_dataframe(depth)[list(SUMS)].sum()
    totals = [info.total_params, info.total_ops, counted.flops, info.total_kernel_macs, info.total_output_macs]
    assert list(sums) == [*totals, counted.read_bytes, counted.written_bytes]
    assert info.traffic == counted and info.traffic is info.traffic


def test_rows_are_the_rows_of_traffic(small: ModelInfo) -> None:
    frame = small.to_dataframe().set_index("path")
    assert frame.index.is_unique
    counted = {row.path: row for row in small.traffic.layers}
    assert {path for path, row in counted.items() if row.bytes or row.output} == set(frame.index)
    for path, row in frame.iterrows():
        expected = counted[str(path)]
        assert [row[name] for name in SUMS] == [getattr(expected, name) for name in SUMS]
        assert row["intensity"] == expected.intensity and row["calls"] == expected.calls
        assert row["output_shape"] == "x".join(map(str, expected.output_shape))


def test_depth_folds_modules_into_those_they_belong_to(small: ModelInfo) -> None:
    deepest = small.to_dataframe()
    frame = small.to_dataframe(depth=1).set_index("path")
    assert list(frame.index) == [f"model.{i}" for i in range(25)]
    for path, row in frame.iterrows():
        below = deepest[(deepest["path"] == path) | deepest["path"].str.startswith(f"{path}.")]
        assert row["kernel"] == below["kernel"].sum() and row["written_bytes"] == below["written_bytes"].sum()
    paths = set(small.to_dataframe(depth=2)["path"])
    assert {"model.0.conv", "model.2", "model.2.m", "model.2.cv1", "model.24.m.0"} <= paths
    assert "model.2.m.0" not in paths and len(small.to_dataframe(depth=99)) == len(deepest)


@pytest.mark.parametrize(
    "sort, key",
    [
        ("traffic", lambda row: row["read_bytes"] + row["written_bytes"]),
        ("read", lambda row: row["read_bytes"]),
        ("written", lambda row: row["written_bytes"]),
        ("accesses", lambda row: row["kernel"] + row["output"]),
        ("kernel", lambda row: row["kernel"]),
        ("output", lambda row: row["output"]),
        ("ops", lambda row: row["total_ops"]),
        ("parameters", lambda row: row["parameters"]),
        ("intensity", lambda row: row["flops"] / max(row["read_bytes"] + row["written_bytes"], 1)),
    ],
)
def test_sorting_puts_the_largest_first(small: ModelInfo, sort: str, key: Any) -> None:
    frame = small.to_dataframe(sort=sort)
    values = [key(row) for _, row in frame.iterrows()]
    assert values == sorted(values, reverse=True)
    assert sorted(frame["path"]) == sorted(small.to_dataframe()["path"])
    shown = [line.split()[0] for line in body(small.table(sort=sort))]
    assert shown == list(frame["path"])


def test_a_list_has_no_row_and_its_parts_bear_its_name() -> None:
    model = Odd()
    info = model_info(model, imgsz=8)
    paths = list(info.to_dataframe()["path"])
    assert paths == ["", "a|<b>&`*_", "blocks.0", "blocks.1.0", "blocks.1.1", "unused", "tied"]
    frame = info.to_dataframe().set_index("path")
    assert frame["parameters"].sum() == info.total_params == 3 * 4 * 9 + 4 + 16 + 4 + 30 + 4
    assert (frame.loc["tied", "parameters"], frame.loc["unused", "calls"]) == (4, 0)
    assert frame.loc["", "type"] == "Odd" and frame.loc["", "operators"] == "add"
    names = [line.replace(" * ", "   ")[:11].rstrip() for line in body(info.table())]
    assert names == ["(itself)", "a|<b>&`*_", "blocks.0", "blocks.1", "  0", "  1", "unused", "tied"]
    assert "2 of 6 modules move" in info.table() and "Odd itself (" in info.table() and " not called " in info.table()


def test_one_layer_alone() -> None:
    conv, inputs = nn.Conv2d(3, 4, 1), (torch.zeros(1, 3, 8, 8),)
    info = ModelInfo(1, 16, 16, (8, 8), record(conv, inputs))
    (line,) = body(info.table())
    assert line.split()[:3] == ["Conv2d", "Conv2d", "1x4x8x8"] and "*" not in info.table()
    assert info.to_dataframe(depth=1)["read_bytes"].tolist() == [(3 * 64 + 16) * 4]


# ---- to read ----


@pytest.mark.parametrize("cfg", ["yolov5s.yaml", "yolov5x.yaml", "segment/yolov5l-seg.yaml"])
def test_the_text_fits_a_terminal(yolo: Any, cfg: str) -> None:
    info = model_info(yolo(cfg))
    choices: Any = {}, {"depth": 1}, {"sort": "traffic"}, {"sort": "intensity"}
    for choice in choices:
        lines = info.table(**choice).splitlines()
        assert max(map(len, lines)) <= 100
        assert "\n".join(lines).isascii()
        ends = {len(line.replace(" *", "  ").rstrip()) for line in body("\n".join(lines))}
        assert len(ends) == 1


def test_the_text_says_what_the_rows_say(small: ModelInfo) -> None:
    rows = body(small.table())
    counted = {row.path: row for row in small.traffic.layers}
    (first, conv, *_), detect = rows, next(line.split() for line in rows if line.startswith("model.24 "))
    assert first.split()[:3] == ["model.0", "Conv", "1x32x320x320"]
    mark, kind, shape, parameters, gflops, kernel, output, share, moved, share_moved = conv.split()[1:]
    row = counted["model.0.conv"]
    assert conv.startswith("  conv ") and (kind, shape, mark) == ("Conv2d", "1x32x320x320", "*")
    assert [number(parameters), number(kernel)] == pytest.approx([3456, 3456], rel=0.02)
    assert float(gflops) == pytest.approx(row.total_ops * 2 / 1e9, abs=5e-4)
    assert number(output) == pytest.approx(row.output, rel=0.02)
    assert float(share[:-1]) == pytest.approx((row.kernel + row.output) / 81_856_816 * 100, abs=0.05)
    assert number(moved) == pytest.approx(row.bytes, rel=0.01)
    total = small.traffic.read_bytes + small.traffic.written_bytes
    assert float(share_moved[:-1]) == pytest.approx(row.bytes / total * 100, abs=0.05)
    detected = sum(row.bytes for path, row in counted.items() if path.startswith("model.24"))
    assert number(detect[-2]) == pytest.approx(detected, rel=0.01)
    last = next(line.split() for line in small.table().splitlines() if line.startswith("total"))
    assert last[:6] == ["total", "7.2M", "16.623", "7.2M", "74.6M", "100.0%"] and last[-1] == "100.0%"
    assert number(last[6]) == pytest.approx(total, rel=0.01)


def test_the_largest_rows_are_marked(small: ModelInfo) -> None:
    largest = sorted(small.traffic.layers, key=lambda row: row.bytes, reverse=True)[:5]
    marked = [line.split()[0] for line in body(small.table(sort="traffic")) if " * " in line]
    assert marked == [row.path for row in largest]
    share = sum(row.bytes for row in largest) / sum(row.bytes for row in small.traffic.layers)
    assert f"* marks the 5 largest rows, {share:.1%} of the bytes." in small.table()
    assert sum(" * " in line for line in body(small.table())) == 5


def test_the_sentences_are_true(yolo: Any, small: ModelInfo) -> None:
    text = " ".join(small.table().split())
    total = small.traffic.read_bytes + small.traffic.written_bytes
    modules: dict[str, int] = {}
    kinds: dict[str, int] = {}
    for row in small.traffic.layers:
        module = ".".join(row.path.split(".")[:2])
        modules[module] = modules.get(module, 0) + row.bytes
        kinds[row.type] = kinds.get(row.type, 0) + row.bytes
    modules.pop("")
    ranking = sorted(modules.items(), key=lambda item: item[1], reverse=True)
    half = next(n for n in range(26) if sum(size for _, size in ranking[:n]) >= total / 2)
    names = ", ".join(f"{name} ({size / total:.1%})" for name, size in ranking[:half])
    share = sum(size for _, size in ranking[:half]) / total
    assert f"{half} of 25 modules move {share:.1%} of the bytes: {names}." in text
    three = sorted(kinds.items(), key=lambda item: item[1], reverse=True)[:3]
    assert "By type, " + ", ".join(f"{kind} {size / total:.1%}" for kind, size in three) in text
    model = yolo("yolov5s.yaml").fuse()
    fused = model_info(model)
    promised = re.search(r"fuse\(\) would save about (\S+)MB \((\S+)%\): it folds 57 BatchNorm2d", text)
    assert promised and "fuse()" not in fused.table()
    saved = total - fused.traffic.read_bytes - fused.traffic.written_bytes
    assert float(promised.group(1)) * 1e6 == pytest.approx(saved, rel=1e-3)
    assert float(promised.group(2)) == pytest.approx(saved / total * 100, abs=0.1)


def test_what_was_left_out_or_assumed_is_told() -> None:
    model = Unknowable()
    info = model_info(model, imgsz=8)
    text = " ".join(info.table().split())
    assert "Accesses and bytes were counted in a real forward pass: " in text
    assert f"for want of a rule: {__name__}.Folded (1 call); their bytes are counted." in text
    assert re.search(r"Not exact: aten::grid_sampler_2d \(1 call\): every input element is read once\.", text)
    assert "real forward pass" in info.to_markdown() and "real forward pass" in info._repr_html_()


# ---- HTML and Markdown ----


class Reader(HTMLParser):
    """Checks that every element is closed in its turn, and collects the rows of the table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in {"div", "style", "p", "table", "thead", "tbody", "tfoot", "tr", "th", "td"}
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1] += [""] * int(dict(attrs).get("colspan", 1))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        elif self.open[-1] != "style":
            self.text += data + "\n"


def test_the_html_is_sound_and_says_the_same(small: ModelInfo) -> None:
    html = small._repr_html_()
    assert "<script" not in html and "http" not in html
    read = Reader(html)
    text = small.table().splitlines()
    assert len(read.rows) == len(body(small.table())) + 2 and {len(row) for row in read.rows} == {10}
    assert [row[4:] for row in read.rows[1:-1]] == [line.replace(" *", "").split()[-6:] for line in body(small.table())]
    (total,) = [line for line in text if line.startswith("total")]
    assert read.rows[-1][3:] == total.split()[1:]
    for line in text[text.index(total) + 1 :]:
        assert line in " ".join(read.text.split())
    assert "81.9M memory accesses (7.2M kernel + 74.6M output)" in read.text and "at 640x640" in read.text


def test_names_are_escaped() -> None:
    model = Odd()
    info = model_info(model, imgsz=8)
    html = info._repr_html_()
    assert "a|&lt;b&gt;&amp;`*_" in html and "<b>" not in html
    assert [row[0] for row in Reader(html).rows][2].startswith("a|<b>&`*_")
    lines = [line for line in info.to_markdown().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {11}
    assert r"`a\|<b>&'*_" in lines[3]


def test_markdown_has_the_rows_of_the_text(small: ModelInfo) -> None:
    lines = small.to_markdown().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert re.fullmatch(r"(---:? ?)+", " ".join(cells[1])) and {len(row) for row in cells} == {10}
    assert len(cells) == len(body(small.table())) + 3
    assert [row[4:] for row in cells[2:-1]] == [line.replace(" *", "").split()[-6:] for line in body(small.table())]
    assert cells[3][0] == "&nbsp;&nbsp;`conv *`" and cells[-1][0] == "total"


# ---- exports ----


def test_csv_reads_back(small: ModelInfo, tmp_path: Path) -> None:
    choices: list[dict[str, Any]] = [{}, {"depth": 2, "sort": "traffic"}]
    for choice in choices:
        small.to_csv(tmp_path / "layers.csv", **choice)
        read = pandas.read_csv(tmp_path / "layers.csv", keep_default_na=False)
        pandas.testing.assert_frame_equal(read, small.to_frame(**choice), check_dtype=False)


def test_json_reads_back(small: ModelInfo, tmp_path: Path) -> None:
    small.to_json(str(tmp_path / "info.json"))
    read = json.loads((tmp_path / "info.json").read_text(encoding="utf-8"))
    counted = small.traffic
    assert (read["imgsz"], read["mode"], read["uncounted"]) == ([640, 640], "shape", {})
    totals = read["totals"]
    assert [totals[name] for name in ("layers", "parameters", "gradients", "gflops")] == list(small)
    assert totals["total_kernel_macs"] == 7_215_616 and totals["total_output_macs"] == 74_641_200
    assert totals["read_bytes"] == counted.read_bytes == sum(row["read_bytes"] for row in read["layers"])
    assert totals["written_bytes"] == counted.written_bytes == sum(row["written_bytes"] for row in read["operators"])
    assert totals["peak_activation_bytes"] == counted.peak_activation_bytes
    assert [row["operator"] for row in read["operators"]] == [row.operator for row in counted.operators]
    assert read["layers"][0]["path"] == "model.0.conv" and read["layers"][0]["output_shape"] == [1, 32, 320, 320]
    assert len(read["layers"]) == len(small.to_dataframe())


# ---- where something can't be counted ----


def test_a_model_that_has_changed_since_is_not_mixed_up(yolo: Any) -> None:
    """All is of the run that was recorded."""
    model, other = yolo("yolov5n.yaml"), yolo("yolov5n.yaml")
    info = model_info(model)
    model.fuse()
    assert info.traffic == traffic(other, torch.zeros(1, 3, 640, 640)) and info.table() == model_info(other).table()


def test_where_nothing_is_counted_everything_says_why(tmp_path: Path, capsys: Any) -> None:
    info = model_info(nn.Linear(3, 4), verbose=True)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert "no 2-d convolution" in info._repr_html_() and math.isnan(info.gflops)
    asks: list[Any] = [lambda: info.traffic, info.table, info.to_dataframe, info.to_markdown]
    asks += [lambda: info.to_csv(tmp_path / "x"), lambda: info.to_json(tmp_path / "x")]
    for ask in asks:
        with pytest.raises(RuntimeError, match="no 2-d convolution"):
            ask()
    assert not (tmp_path / "x").exists()


def test_bad_choices_name_the_good_ones(small: ModelInfo, tmp_path: Path) -> None:
    for ask in (small.table, small.to_dataframe, small.to_markdown, lambda *a: small.to_csv(tmp_path / "x", *a)):
        with pytest.raises(ValueError, match=r"depth must be None.* from 1 up, not -1"):
            ask(-1)
        with pytest.raises(ValueError, match=r"sort must be None.*traffic, .*intensity, not 'size'"):
            ask(None, "size")


def test_it_still_unpacks_to_four(small: ModelInfo) -> None:
    layers, parameters, gradients, gflops = small
    assert (layers, parameters, gradients, gflops) == (214, 7_235_389, 7_235_389, 16.6227968)
    bare = ModelInfo(1, 2, 3, None, None, "no count")
    assert "no count" in bare._repr_html_() and math.isnan(bare.gflops)
