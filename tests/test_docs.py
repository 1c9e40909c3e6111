"""README in both languages and docs/: links, commands, tables and the notebook do what they say."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from releases import LATEST, ROOT, copy_release, run_python

from utils.thop.command.arguments import examples
from utils.thop.deploy.devices import load_devices

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = sorted([ENGLISH, CHINESE, ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
MADE_HERE = ("my-board", "my-pc", "boards.yaml", "measured.csv", "perf.csv")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


QUESTIONS = {
    "Which layer do I change?": "docs/devices.md#which-layer-to-change",
    "Which batch fits into my GPU?": "docs/training.md",
    "How fast is it on my board?": "docs/devices.md#how-fast",
    "Which network reaches my frame rate?": "docs/devices.md#which-network-is-fast-enough",
    "Which board do I buy?": "docs/devices.md#which-board",
    "My board is not listed: what now?": "docs/devices.md#your-own-board",
    "How sure is a predicted time?": "docs/clock.md#how-sure",
    "What does the patch do to my fork?": "docs/checkout.md",
    "What is a memory access?": "docs/counting.md",
    "Why do other profilers say other GFLOPs?": "docs/profilers.md",
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_one_link_from_its_answer(question: str) -> None:
    links = dict(re.findall(r"\[([^]]+)\]\(([^)]+)\)", text_of(ENGLISH)))
    assert links[question] == QUESTIONS[question] and f"({links[question]})" in text_of(CHINESE)
    file, _, anchor = links[question].partition("#")
    assert (ROOT / file).exists() and (not anchor or anchor in anchors(ROOT / file))


def test_pages_are_short() -> None:
    assert len(text_of(ENGLISH).split()) <= 800
    assert sum(len(text_of(page).split()) for page in (ROOT / "docs").glob("*.md")) <= 5800


def blocks(page: Path) -> list[str]:
    """The lines of code: indented or fenced."""
    text = text_of(page)
    fenced = re.findall(r"```.*?\n(.*?)```", text, re.DOTALL)
    return [*fenced, *re.findall(r"^    \S.*$", text, re.MULTILINE)]


def tables(page: Path) -> list[str]:
    return re.findall(r"^\|.*$", text_of(page), re.MULTILINE)


def test_both_languages_say_the_same() -> None:
    assert blocks(ENGLISH) == blocks(CHINESE)
    assert tables(ENGLISH) == tables(CHINESE)
    levels = [re.findall(r"^(#+) ", text_of(page), re.MULTILINE) for page in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]
    links = [sorted(set(re.findall(r"\]\(((?!README)[^)]+)\)", text_of(page)))) for page in (ENGLISH, CHINESE)]
    assert links[0] == links[1]
    assert "(README.zh-CN.md)" in text_of(ENGLISH)[:200] and "(README.md)" in text_of(CHINESE)[:200]
    for word in ("访存量", "计算量", "算子", "部署"):
        assert word in text_of(CHINESE)


def commands() -> list[str]:
    """Every command line of the program in README, docs and what its name alone shows, each once."""
    found: dict[str, None] = {}
    for text in (examples(), *map(text_of, PAGES)):
        joined = text.replace("\\\n", " ")
        for line in re.findall(r"^(?:    |  )python -m utils\.thop (.+)$", joined, re.MULTILINE):
            found[" ".join(re.split(r"\s{2,}#|\s#\s", line)[0].split())] = None
    return list(found)


def test_there_are_commands_to_try() -> None:
    assert len(commands()) >= 10
    assert {line.split()[0] for line in commands()} == {
        "summary", "compare", "predict", "choose", "advise", "train", "calibrate", "devices",
    }  # fmt: skip


@pytest.fixture(name="checkout", scope="module")
def checkout_with_measurements(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a reader may type: models/, a table of measurements and a profile."""
    folder = copy_release(LATEST, tmp_path_factory.mktemp("docs") / "release") / "yolov5"
    models = [("torchvision:resnet18", 6.0), ("torchvision:vgg11", 24.0), ("torchvision:mobilenet_v2", 3.0)]
    lines = ["model,ms,imgsz", *(f"{name},{ms},224" for name, ms in models), "models/yolov5n.yaml,12,640"]
    (folder / "measured.csv").write_text("\n".join(lines) + "\n")
    shutil.copy(ROOT / "tests/measure/samples/rknn_yolov8n-nc3_1920.csv", folder / "perf.csv")
    return folder


RUN_ALL = """
import json, shlex, sys
sys.path.insert(0, sys.argv[1])
from utils.thop.command.cli import main
from utils.thop.measure import here
here.TURNS, here.SECONDS = 1, 0.0  # of half a minute on this machine
for line in json.loads(sys.argv[2]):
    print(">>>", line, flush=True)
    status = main(shlex.split(line))
    assert status == 0, f"{line} ended with {status}"
"""


def test_every_command_works(checkout: Path) -> None:
    lines = sorted(commands(), key=lambda line: not line.startswith("calibrate"))  # it makes what others take
    out = run_python(["-c", RUN_ALL, str(ROOT), json.dumps(lines)], checkout).stdout
    said = out.split(">>> ")[1:]
    assert [text.partition("\n")[0] for text in said] == lines
    assert all(text.partition("\n")[2].strip() for text in said)
    shown = {" ".join(line.split()) for text in said for line in text.splitlines()}
    for rows in re.findall(
        r"^    python -m utils\.thop .*\n((?:    (?!python|\.\.\.).+\n)+)", text_of(ENGLISH), re.MULTILINE
    ):
        assert {" ".join(row.split()) for row in rows.splitlines()} <= shown


def test_the_table_of_the_clock_is_that_of_the_estimates() -> None:
    devices = load_devices()
    with (ROOT / "docs" / "clock.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    counted: dict[tuple[str, str], int] = {}
    for row in rows:
        known = devices[row["device"]].runtimes[row["runtime"]] if row["device"] in devices else None
        if known:
            assert row["precision"] in known.precisions
            place = row["device"], row["runtime"]
            counted[place] = counted.get(place, 0) + int(row["networks"])
    assert len(counted) > 100 and len({row["silicon"] for row in rows}) >= 60
    for (device, runtime), count in counted.items():
        assert devices[device].runtimes[runtime].basis.networks == count
    for kind in {row["kind"] for row in rows}:
        for column in ("inside", "five_inside", "sheet_inside"):
            shares = [float(row[column]) for row in rows if row["kind"] == kind and row[column]]
            assert not shares or sum(shares) / len(shares) >= 0.85, (kind, column)


def test_versions_agree() -> None:
    from utils.thop import __version__

    assert f"## {__version__}," in text_of(ROOT / "CHANGELOG.md")
    assert f"version: {__version__}" in text_of(ROOT / "CITATION.cff")
