"""The rooms of utils/thop and patches: which way arrows run, what a file says of itself, docs/architecture.md."""

import ast
import re
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest
from releases import ROOT

THOP = ROOT / "utils" / "thop"
ROOMS = (
    "run",
    "count",
    "",
    "deploy",
    "measure",
    "show",
    "command",
)  # "" for the public functions; each imports those before it
FILES = sorted(file.relative_to(THOP) for file in THOP.rglob("*.py"))
TOP = {"__init__.py", "__main__.py", "namesake.py"}  # the package itself, which knows all rooms


def room_of(file: Path) -> str:
    return file.parts[0] if len(file.parts) > 1 else ""


def imported(file: Path) -> Iterator[Path]:
    """Yield what a file imports from this package, as a path below it."""
    package = list(file.parts[:-1])
    for node in ast.walk(ast.parse((THOP / file).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        yield Path(*base, "x") if (THOP / Path(*base)).is_dir() else Path(*base)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_arrows_run_one_way(file: Path) -> None:
    if file.name in TOP and len(file.parts) == 1:
        return
    allowed = ROOMS[: ROOMS.index(room_of(file)) + 1]
    for target in imported(file):
        assert room_of(target) in allowed, f"{file} imports {target}"


def test_there_is_no_circle() -> None:
    arrows = {str(f.with_suffix("")): [str(t) for t in imported(f) if t.name != "x"] for f in FILES}
    done: List[str] = []

    def visit(name: str, above: Tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for target in arrows.get(name, []):
                visit(target, (*above, name))
            done.append(name)

    for name in arrows:
        visit(name, ())


SOURCES = [*THOP.rglob("*.py"), *(ROOT / "patches").glob("*.py"), ROOT / "utils" / "torch_utils.py"]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_file_has_a_subject_and_functions_that_fit_a_screen(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)) or file.name == "torch_utils.py"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno <= 60, f"{file.name}: {node.name} is longer than a screen"


def test_the_map_names_what_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert "architecture.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:utils|tests|patches|benchmarks)/[\w./-]+)`", text)
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).exists(), name
    text_of_places = text + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for test in re.findall(r"`(test_\w+)`", text_of_places):
        found = [file for file in (ROOT / "tests").rglob("*.py") if f"def {test}(" in file.read_text(encoding="utf-8")]
        assert found, test
    for room in filter(None, ROOMS):
        assert f"`utils/thop/{room}/`" in text


def test_nothing_that_travels_is_ignored_where_it_goes() -> None:
    """YOLOv5's .gitignore leaves out files by their suffix: who commits a patched checkout would lose them."""
    ignored = {".json", ".cfg", ".data", ".png", ".jpg", ".pt", ".onnx", ".pb", ".mat", ".log", ".zip"}
    shipped = [path for path in (ROOT / "utils").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert len(shipped) > 50 and not [path.name for path in shipped if path.suffix in ignored]
