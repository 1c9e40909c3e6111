"""patches/apply.py: what it puts into a checkout, what it takes out, and what it refuses."""

from __future__ import annotations

import ast
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = REPOSITORY / "patches" / "apply.py"
MODULE = "utils/torch_utils.py"
MUTATIONS = ("open", "write", "mkdir", "rename", "replace", "unlink", "rmdir", "chmod")
posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions, links or processes")

ORIGINAL = b"import math\n\n\ndef model_info(model):\n    return math.pi\n"
CHECKOUTS = {
    "lf": ORIGINAL,
    "crlf": ORIGINAL.replace(b"\n", b"\r\n"),
    "cr": ORIGINAL.replace(b"\n", b"\r"),
    "mixed, CRLF last": b"a = 1\nb = 2\r\n",
    "mixed, LF last": b"a = 1\r\nb = 2\n",
    "no final newline": ORIGINAL[:-1],
    "no final newline, crlf": ORIGINAL.replace(b"\n", b"\r\n")[:-2],
    "no newline at all": b"a = 1",
    "empty": b"",
    "one newline": b"\n",
    "blank lines at the end": ORIGINAL + b"\n\n\n\n",
    "spaces at the end": ORIGINAL + b"    ",
    "bom": b"\xef\xbb\xbf" + ORIGINAL,
    "only a bom": b"\xef\xbb\xbf",
    "latin-1": b"# -*- coding: latin-1 -*-\nname = '\xe9'\n",
    "gbk": "# coding: gbk\nname = '访存量'\n".encode("gbk"),
    "utf-8": "name = '访存量'\n".encode(),
    "cr, coding named later": b"# one\rcoding = 3\r# coding: nonsense\r",
}


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Project:
    """A small clone of this project with its own copy of apply.py."""

    root: Path
    module: ModuleType
    capture: Callable[[], Any]

    def run(self, *arguments: Any) -> Result:
        self.capture()
        status = self.module.main([str(argument) for argument in arguments])
        captured = self.capture()
        return Result(status, captured.out, captured.err)

    def script(self, *arguments: Any) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, str(self.root / "patches" / "apply.py"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, timeout=60)


Make = Callable[..., Project]


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def make_checkout(root: Path, data: bytes = ORIGINAL) -> Path:
    files = {"train.py": b"", "models/__init__.py": b"", "utils/__init__.py": b"", MODULE: data}
    return write_tree(root, files)


def snapshot(root: Path) -> dict[str, tuple[str, int, bytes]]:
    """Read a whole tree: kind, mode and content of everything in it."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        if path.is_symlink():
            kind, data = "link", os.readlink(str(path)).encode()
        elif path.is_dir():
            kind, data = "folder", b""
        else:
            kind, data = "file", path.read_bytes()
        found[path.relative_to(root).as_posix()] = (kind, stat.S_IMODE(status.st_mode), data)
    return found


def times(root: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]}


@pytest.fixture
def make(tmp_path: Path, capsys: Any) -> Iterator[Make]:
    """Build projects: `make("1.1.0")`, with other file names or another block when asked."""
    loaded: list[str] = []

    def build(version: str = "1.0.0", body: str = "", **files: bytes) -> Project:
        root = tmp_path / f"project{len(loaded)}"
        block = body or f"def model_info(model):\n    return 'memory access {version}'\n"
        source = f"# another project\nimport os\n\n# >>> yolov5 memory access >>>\n{block}"
        contents = {
            **{f"patches/{file.name}": file.read_bytes() for file in SCRIPT.parent.glob("*.py")},
            MODULE: f"{source}# <<< yolov5 memory access <<<\nx = os\n".encode(),
            "utils/thop/__init__.py": f'__version__ = "{version}"\n'.encode(),
            "utils/thop/hooks.py": b"RULES = {}  # " + version.encode() + b"\n",
            "utils/thop/rules/__init__.py": b"",
            "utils/thop/rules/extra.yaml": b"a: 1\n",
        }
        contents.update({f"utils/thop/{name.replace('__dot__', '.')}": data for name, data in files.items()})
        write_tree(root, contents)
        name = f"apply_under_test_{len(loaded)}"
        spec = importlib.util.spec_from_file_location(name, root / "patches" / "apply.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loaded.append(name)
        spec.loader.exec_module(module)
        return Project(root, module, capsys.readouterr)

    yield build
    for name in loaded:
        del sys.modules[name]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "yolov5")


def assert_refused(project: Project, root: Path, *arguments: Any, naming: str) -> None:
    """One clear line, exit status 1, and a tree that is what it was."""
    before = snapshot(root)
    result = project.run(*arguments)
    assert result.status == 1
    assert result.out == ""
    assert result.err.startswith("apply.py: ") and result.err.count("\n") == 1
    assert naming in result.err
    assert snapshot(root) == before


# ---- applying and taking out ---------------------------------------------------------------------


@pytest.mark.parametrize("data", CHECKOUTS.values(), ids=CHECKOUTS)
def test_apply_adds_and_revert_gives_back_every_byte(make: Make, tmp_path: Path, data: bytes) -> None:
    project, root = make(), make_checkout(tmp_path / "yolov5", data)
    before = snapshot(root)
    assert project.run(root).status == 0
    patched = (root / MODULE).read_bytes()
    assert patched.startswith(data) and len(patched) > len(data)
    namespace: dict[str, Any] = {}
    exec(compile(patched, MODULE, "exec"), namespace)
    assert namespace["model_info"](None) == "memory access 1.0.0"
    assert {name for name in snapshot(root) if name not in before} == {
        "utils/thop",
        "utils/thop/__init__.py",
        "utils/thop/hooks.py",
        "utils/thop/patch.json",
        "utils/thop/rules",
        "utils/thop/rules/__init__.py",
        "utils/thop/rules/extra.yaml",
    }
    assert (root / "utils/thop/hooks.py").read_bytes() == (project.root / "utils/thop/hooks.py").read_bytes()
    assert project.run(root, "--revert").status == 0
    assert snapshot(root) == before


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("lf", b"\n"),
        ("crlf", b"\r\n"),
        ("cr", b"\r"),
        ("mixed, CRLF last", b"\r\n"),
        ("mixed, LF last", b"\n"),
    ],
)
def test_the_block_takes_the_line_ending_of_the_last_line(make: Make, tmp_path: Path, name: str, ending: bytes) -> None:
    root = make_checkout(tmp_path / "yolov5", CHECKOUTS[name])
    make().run(root)
    added = (root / MODULE).read_bytes()[len(CHECKOUTS[name]) :]
    assert added.endswith(b"# <<< yolov5 memory access <<<" + ending)
    assert b"# >>> yolov5 memory access 1.0.0 >>>" + ending in added
    assert added.replace(ending, b"").count(b"\r") + added.replace(ending, b"").count(b"\n") == 0


def test_applying_twice_writes_nothing(make: Make, checkout: Path) -> None:
    project = make()
    project.run(checkout)
    before, then = snapshot(checkout), times(checkout)
    result = project.run(checkout)
    assert result.status == 0 and "already applied" in result.out
    assert snapshot(checkout) == before and times(checkout) == then


def test_reverting_what_is_not_applied_changes_nothing(make: Make, checkout: Path) -> None:
    then = times(checkout)
    result = make().run(checkout, "--revert")
    assert result.status == 0 and "not applied" in result.out
    assert times(checkout) == then


@pytest.mark.parametrize("data", CHECKOUTS.values(), ids=CHECKOUTS)
@pytest.mark.parametrize("versions", [("1.0.0", "1.1.0"), ("1.2.0", "1.1.0")], ids=["newer", "older"])
def test_another_version_replaces_block_and_folder(
    make: Make, tmp_path: Path, data: bytes, versions: tuple[str, str]
) -> None:
    old, new = make(versions[0], gone__dot__py=b"x = 1\n"), make(versions[1], added__dot__py=b"y = 2\n")
    root, fresh = make_checkout(tmp_path / "yolov5", data), make_checkout(tmp_path / "fresh", data)
    before = snapshot(root)
    old.run(root)
    result = new.run(root)
    assert result.status == 0 and f"replaced {versions[0]} by {versions[1]}" in result.out
    new.run(fresh)
    assert snapshot(root) == snapshot(fresh)
    assert new.run(root, "--revert").status == 0
    assert snapshot(root) == before


def test_another_state_of_the_same_version_is_replaced(make: Make, checkout: Path) -> None:
    old, new = make(), make(body="def model_info(model):\n    return 'development'\n")
    old.run(checkout)
    assert "another state" in new.run(checkout, "--check").out
    assert new.run(checkout).status == 0
    assert b"development" in (checkout / MODULE).read_bytes()
    assert "already applied" in new.run(checkout).out


def test_what_is_no_source_stays_at_home(make: Make, checkout: Path) -> None:
    project = make(**{"backup__dot__py~": b"", "__dot__hidden": b"", "old__dot__pyc": b"", "x__dot__orig": b""})
    write_tree(project.root / "utils/thop", {"__pycache__/hooks.cpython-311.pyc": b"", "patch.json": b"{}"})
    project.run(checkout)
    names = {path.name for path in (checkout / "utils/thop").iterdir()}
    assert names == {"__init__.py", "hooks.py", "rules", "patch.json"}


def test_the_manifest_tells_what_was_written(make: Make, checkout: Path) -> None:
    make().run(checkout)
    manifest = json.loads((checkout / "utils/thop/patch.json").read_text())
    assert manifest["version"] == "1.0.0"
    assert manifest["original"] == hashlib.sha256(ORIGINAL).hexdigest()
    for name, value in manifest["files"].items():
        assert value == hashlib.sha256((checkout / "utils/thop" / name).read_bytes()).hexdigest()
    block = (checkout / MODULE).read_bytes()[len(ORIGINAL) + 2 :]
    assert manifest["block"] == hashlib.sha256(block).hexdigest()


def test_python_caches_of_our_files_go_too(make: Make, checkout: Path) -> None:
    before = snapshot(checkout)
    project = make()
    project.run(checkout)
    caches = ["__pycache__/hooks.cpython-311.pyc", "rules/__pycache__/__init__.cpython-38.opt-1.pyc"]
    write_tree(checkout / "utils/thop", dict.fromkeys(caches, b"compiled"))
    assert project.run(checkout, "--revert").status == 0
    assert snapshot(checkout) == before


@posix_only
@pytest.mark.parametrize("mode", [0o444, 0o640, 0o755])
def test_modes_survive(make: Make, checkout: Path, mode: int) -> None:
    (checkout / MODULE).chmod(mode)
    before = snapshot(checkout)
    project = make()
    assert project.run(checkout).status == 0
    assert snapshot(checkout)[MODULE][1] == mode
    assert project.run(checkout, "--revert").status == 0
    assert snapshot(checkout) == before


@posix_only
def test_copied_files_get_ordinary_permissions(make: Make, checkout: Path) -> None:
    project = make()
    (project.root / "utils/thop/hooks.py").chmod(0o700)
    mask = os.umask(0o027)
    try:
        project.run(checkout)
    finally:
        os.umask(mask)
    assert snapshot(checkout)["utils/thop/hooks.py"][1] == 0o640


@posix_only
def test_links_survive(make: Make, checkout: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "shared.py"
    write_tree(tmp_path / "elsewhere", {"shared.py": ORIGINAL})
    (checkout / MODULE).unlink()
    (checkout / MODULE).symlink_to(real)
    (tmp_path / "link").symlink_to(checkout)
    before, beside = snapshot(checkout), snapshot(tmp_path / "elsewhere")
    project = make()
    assert project.run(tmp_path / "link").status == 0
    assert (checkout / MODULE).is_symlink() and b"memory access 1.0.0" in real.read_bytes()
    assert project.run(tmp_path / "link", "--revert").status == 0
    assert snapshot(checkout) == before and snapshot(tmp_path / "elsewhere") == beside


# ---- edits of the user ---------------------------------------------------------------------------


@pytest.mark.parametrize("data", [ORIGINAL, ORIGINAL[:-1], ORIGINAL.replace(b"\n", b"\r\n")])
def test_edits_outside_the_block_are_kept(make: Make, tmp_path: Path, data: bytes) -> None:
    project, root = make(), make_checkout(tmp_path / "yolov5", data)
    project.run(root)
    path = root / MODULE
    path.write_bytes(path.read_bytes().replace(b"import math", b"import math, os") + b"after = 1\n")
    result = project.run(root, "--revert")
    assert result.status == 0 and "other edits to that file were kept" in result.out
    newline = b"" if data.endswith(b"\n") else b"\n"
    assert path.read_bytes() == data.replace(b"import math", b"import math, os") + newline + b"after = 1\n"


def test_blank_lines_taken_from_before_the_block_are_not_taken_twice(make: Make, checkout: Path) -> None:
    project, path = make(), checkout / MODULE
    project.run(checkout)
    path.write_bytes(path.read_bytes().replace(b"\n\n\n# >>> ", b"\n# >>> "))
    assert project.run(checkout, "--revert").status == 0
    assert path.read_bytes() == ORIGINAL


def test_an_upgrade_keeps_edits_and_their_place(make: Make, checkout: Path) -> None:
    old, new, path = make("1.0.0"), make("1.1.0"), checkout / MODULE
    old.run(checkout)
    path.write_bytes(b"first = 1\n" + path.read_bytes() + b"after = 1\n")
    assert new.run(checkout).status == 0
    assert path.read_bytes().endswith(b"# <<< yolov5 memory access <<<\nafter = 1\n")
    assert "other edits" in new.run(checkout, "--revert").out
    assert path.read_bytes() == b"first = 1\n" + ORIGINAL + b"after = 1\n"


def edit_block(root: Path) -> str:
    path = root / MODULE
    path.write_bytes(path.read_bytes().replace(b"return 'memory", b"return 'my memory"))
    return MODULE


def edit_note(root: Path) -> str:
    path = root / MODULE
    path.write_bytes(path.read_bytes().replace(b"# added: 2 blank", b"# added: 1 blank"))
    return MODULE


def edit_copied_file(root: Path) -> str:
    (root / "utils/thop/hooks.py").write_bytes(b"RULES = {1: 2}\n")
    return "utils/thop/hooks.py"


def add_file(root: Path) -> str:
    (root / "utils/thop/rules/mine.py").write_bytes(b"")
    return "utils/thop/rules/mine.py"


def add_folder(root: Path) -> str:
    (root / "utils/thop/mine").mkdir()
    return "utils/thop/mine"


def add_strange_cache(root: Path) -> str:
    write_tree(root, {"utils/thop/__pycache__/mine.cpython-311.pyc": b""})
    return "utils/thop/__pycache__/mine.cpython-311.pyc"


EDITS = [edit_block, edit_note, edit_copied_file, add_file, add_folder, add_strange_cache]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("action", ["revert", "upgrade"])
def test_work_of_the_user_is_never_removed(
    make: Make, checkout: Path, edit: Callable[[Path], str], action: str
) -> None:
    old, new = make("1.0.0"), make("1.1.0")
    old.run(checkout)
    name = edit(checkout)
    arguments = (checkout, "--revert") if action == "revert" else (checkout,)
    assert_refused(new, checkout, *arguments, naming=str(checkout / name))


@pytest.mark.parametrize("edit", [edit_block, edit_note, edit_copied_file])
def test_an_edited_copy_of_this_version_is_not_called_applied(
    make: Make, checkout: Path, edit: Callable[[Path], str]
) -> None:
    project = make()
    project.run(checkout)
    name = edit(checkout)
    assert_refused(project, checkout, checkout, naming=str(checkout / name))
    check = project.run(checkout, "--check")
    assert check.status == 0 and "has been edited" in check.out


@posix_only
def test_a_link_in_our_folder_is_not_ours(make: Make, checkout: Path) -> None:
    project = make()
    project.run(checkout)
    (checkout / "utils/thop/hooks.py").unlink()
    (checkout / "utils/thop/hooks.py").symlink_to(checkout / "train.py")
    assert_refused(project, checkout, checkout, "--revert", naming="hooks.py")


# ---- what git and editors do to a patched checkout -----------------------------------------------


def test_a_clone_without_the_manifest_can_be_reverted(make: Make, checkout: Path) -> None:
    before, project = snapshot(checkout), make()
    project.run(checkout)
    patched = snapshot(checkout)
    (checkout / "utils/thop/patch.json").unlink()  # YOLOv5's .gitignore has *.json
    assert "applied: memory access 1.0.0" in project.run(checkout, "--check").out
    assert project.run(checkout).status == 0
    assert snapshot(checkout) == patched
    (checkout / "utils/thop/patch.json").unlink()
    assert project.run(checkout, "--revert").status == 0
    assert snapshot(checkout) == before


def test_a_clone_with_other_line_endings_is_still_ours(make: Make, checkout: Path) -> None:
    project = make()
    project.run(checkout)
    for path in [*(checkout / "utils/thop").rglob("*.*"), checkout / MODULE]:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    then = times(checkout)
    assert "already applied" in project.run(checkout).out
    assert times(checkout) == then
    assert "is again what it was" in project.run(checkout, "--revert").out
    assert (checkout / MODULE).read_bytes() == ORIGINAL.replace(b"\n", b"\r\n")
    assert not (checkout / "utils/thop").exists()


def test_a_lost_final_newline_after_the_block_is_no_edit(make: Make, checkout: Path) -> None:
    project, path = make(), checkout / MODULE
    project.run(checkout)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert "already applied" in project.run(checkout).out
    assert project.run(checkout, "--revert").status == 0
    assert path.read_bytes() == ORIGINAL


@pytest.mark.parametrize("lost", ["file", "folder", "block"])
def test_what_was_lost_is_completed(make: Make, checkout: Path, lost: str) -> None:
    project, before = make(), snapshot(checkout)
    project.run(checkout)
    patched = snapshot(checkout)
    for follow, wanted in ((), patched), (("--revert",), before):
        if lost == "file":
            (checkout / "utils/thop/hooks.py").unlink()
        elif lost == "folder":
            shutil.rmtree(checkout / "utils/thop")
        else:
            (checkout / MODULE).write_bytes(ORIGINAL)
        check = project.run(checkout, "--check")
        assert check.status == 1 and check.out.startswith("incomplete")
        assert project.run(checkout, *follow).status == 0
        assert snapshot(checkout) == wanted


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_git_sees_the_two_places_and_nothing_else(make: Make, checkout: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=false"]
        return subprocess.check_output(["git", *identity, *arguments], cwd=str(checkout)).decode()

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "start")
    project = make()
    project.run(checkout)
    assert git("status", "--porcelain").splitlines() == [f" M {MODULE}", "?? utils/thop/"]
    project.run(checkout, "--revert")
    assert git("status", "--porcelain") == ""


# ---- --check and --diff --------------------------------------------------------------------------


def test_check_tells_the_state_and_writes_nothing(make: Make, checkout: Path) -> None:
    old, new = make("1.0.0"), make("1.1.0")
    assert old.run(checkout, "--check").out.startswith("not applied")
    old.run(checkout)
    then = times(checkout)
    result = old.run(checkout, "--check")
    assert result.status == 0 and result.out.startswith("applied: memory access 1.0.0")
    assert "this is 1.1.0" in new.run(checkout, "--check").out
    assert times(checkout) == then


def take_diff(tool: str, root: Path, patch: Path) -> None:
    command = ["git", "apply", "-p1", str(patch)] if tool == "git" else ["patch", "-sp1", "-i", str(patch)]
    subprocess.run(command, cwd=str(root), check=True, capture_output=True)


@pytest.mark.parametrize("tool", ["git", "patch"])
@pytest.mark.parametrize(
    "name", ["lf", "crlf", "no final newline", "no final newline, crlf", "latin-1", "bom", "empty", "cr"]
)
def test_the_diff_is_what_apply_does(make: Make, tmp_path: Path, tool: str, name: str) -> None:
    if not shutil.which(tool):
        pytest.skip(f"needs {tool}")
    project = make(unended__dot__py=b"x = 1")
    root, copy = (make_checkout(tmp_path / place, CHECKOUTS[name]) for place in ("yolov5", "copy"))
    before = snapshot(root)
    result = project.script(root, "--diff")
    said = re.match(rb"apply\.py: \S+torch_utils\.py: \+\d+ lines; .* files new\n", result.stderr)
    assert result.returncode == 0 and said
    assert result.stdout.split(b"\n", 1)[0].endswith(b"torch_utils.py")
    assert snapshot(root) == before
    (tmp_path / "x.diff").write_bytes(result.stdout)
    take_diff(tool, copy, tmp_path / "x.diff")
    project.run(root)
    assert {k: v[2] for k, v in snapshot(copy).items()} == {k: v[2] for k, v in snapshot(root).items()}
    again = project.script(root, "--diff")
    assert (again.returncode, again.stdout) == (0, b"") and b"already applied" in again.stderr


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_diff_of_an_upgrade_deletes_and_adds(make: Make, tmp_path: Path) -> None:
    old, new = make("1.0.0", gone__dot__py=b"x = 1\n"), make("1.1.0", added__dot__py=b"y = 2\n")
    root, copy = make_checkout(tmp_path / "yolov5"), make_checkout(tmp_path / "copy")
    old.run(root)
    old.run(copy)
    (tmp_path / "x.diff").write_bytes(new.script(root, "--diff").stdout)
    take_diff("git", copy, tmp_path / "x.diff")
    new.run(root)
    assert {k: v[2] for k, v in snapshot(copy).items()} == {k: v[2] for k, v in snapshot(root).items()}


# ---- refusals ------------------------------------------------------------------------------------

ACTIONS: list[tuple[str, ...]] = [(), ("--check",), ("--diff",), ("--revert",)]


@pytest.mark.parametrize("action", ACTIONS, ids=str)
def test_a_path_that_is_no_checkout_is_refused(make: Make, tmp_path: Path, action: tuple[str, ...]) -> None:
    project = make()
    packages = tmp_path / "site-packages"
    make_checkout(packages / "yolov5")
    refuse = [
        (packages / "nothing", "no such folder"),
        (packages / "yolov5/train.py", "is not a folder"),
        (packages, f"did you mean {packages / 'yolov5'}"),
        (packages / "yolov5/utils", f"did you mean {packages / 'yolov5'}"),
        (packages / "yolov5" / MODULE, f"did you mean {packages / 'yolov5'}"),
    ]
    for path, naming in refuse:
        assert_refused(project, packages, path, *action, naming=naming)
    (packages / "yolov5" / MODULE).unlink()
    assert_refused(project, packages, packages / "yolov5", *action, naming="no utils/torch_utils.py")
    (packages / "yolov5" / MODULE).mkdir()
    assert_refused(project, packages, packages / "yolov5", *action, naming="not a regular file")


@pytest.mark.parametrize("action", ACTIONS, ids=str)
def test_this_project_itself_is_refused(make: Make, tmp_path: Path, action: tuple[str, ...]) -> None:
    project, clone = make(), make()
    assert_refused(project, project.root, project.root, *action, naming="this project itself")
    assert_refused(project, clone.root, clone.root, *action, naming="this project itself")
    shutil.rmtree(clone.root / "patches")
    assert_refused(project, clone.root, clone.root, *action, naming="line 4")


@pytest.mark.parametrize(
    ("data", "naming"),
    [
        (b"a = 1\nb = (\n", "torch_utils.py, line "),
        (b"a = 1\n  b = 2\n", "torch_utils.py, line 2"),
        (b"name = '\xe9'\n", "does not parse"),
        (b"# coding: nonsense\n", "does not parse"),
        (b"a = 1\n\0\n", "does not parse"),
        ("a = 1\n".encode("utf-16"), "does not parse"),
    ],
)
@pytest.mark.parametrize("action", [(), ("--diff",)], ids=str)
def test_a_file_that_does_not_parse_is_refused(
    make: Make, tmp_path: Path, data: bytes, naming: str, action: tuple[str, ...]
) -> None:
    root = make_checkout(tmp_path / "yolov5", data)
    assert_refused(make(), root, root, *action, naming=naming)


@pytest.mark.parametrize("kind", ["folder", "empty manifest", "manifest of another", "file", "module"])
@pytest.mark.parametrize("action", [(), ("--diff",)], ids=str)
def test_a_thop_of_somebody_else_is_refused(make: Make, checkout: Path, kind: str, action: tuple[str, ...]) -> None:
    files = {
        "folder": {"utils/thop/__init__.py": b"x = 1\n"},
        "empty manifest": {"utils/thop/__init__.py": b"", "utils/thop/patch.json": b""},
        "manifest of another": {"utils/thop/patch.json": b'{"version": "1.0.0", "files": {}}'},
        "file": {"utils/thop": b""},
        "module": {"utils/thop.py": b""},
    }[kind]
    project = make()
    write_tree(checkout, files)
    naming = str(checkout / "utils" / ("thop.py" if kind == "module" else "thop"))
    assert_refused(project, checkout, checkout, *action, naming=f"{naming} is not from this project")
    before = snapshot(checkout)
    assert project.run(checkout, "--check").out.startswith("not applied")
    assert project.run(checkout, "--revert").status == 0
    assert snapshot(checkout) == before


@posix_only
def test_a_linked_thop_is_refused(make: Make, checkout: Path, tmp_path: Path) -> None:
    project, other = make(), make_checkout(tmp_path / "other")
    project.run(other)
    (checkout / "utils/thop").symlink_to(other / "utils/thop")
    assert_refused(project, checkout, checkout, naming="utils/thop is not from this project")


def test_a_thop_put_in_place_of_ours_is_refused(make: Make, checkout: Path) -> None:
    project = make()
    project.run(checkout)
    shutil.rmtree(checkout / "utils/thop")
    write_tree(checkout, {"utils/thop/__init__.py": b"mine = 1\n"})
    for action in (), ("--revert",):
        assert_refused(project, checkout, checkout, *action, naming=str(checkout / "utils" / "thop"))
    assert project.run(checkout, "--check").status == 1


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("damage", ["no end", "no begin", "twice", "turned round"])
def test_broken_markers_are_refused(make: Make, checkout: Path, damage: str, action: tuple[str, ...]) -> None:
    project, path = make(), checkout / MODULE
    project.run(checkout)
    begin, end = b"# >>> yolov5 memory access 1.0.0 >>>\n", b"# <<< yolov5 memory access <<<\n"
    patched = path.read_bytes()
    line = patched[: patched.index(begin)].count(b"\n") + 1
    path.write_bytes(
        {
            "no end": patched.replace(end, b""),
            "no begin": patched.replace(begin, b""),
            "twice": patched + begin + end,
            "turned round": patched.replace(begin, b"#\n").replace(end, begin).replace(b"#\n", end),
        }[damage]
    )
    naming = "do not pair up (line " + ("" if damage == "no begin" else str(line))
    if damage == "turned round":
        naming = "do not pair up"
    assert_refused(project, checkout, checkout, *action, naming=naming)


def opened_up(path: Path) -> Iterator[None]:
    """Let another user through to `path`: pytest's folders are private."""
    changed = []
    for parent in path.parents:
        status = parent.stat()
        if status.st_uid == os.geteuid() and not status.st_mode & stat.S_IXOTH:
            changed.append((parent, stat.S_IMODE(status.st_mode)))
            parent.chmod(changed[-1][1] | stat.S_IXOTH)
    yield
    for parent, mode in changed:
        parent.chmod(mode)


@pytest.fixture
def reachable(tmp_path: Path) -> Iterator[None]:
    yield from opened_up(tmp_path / "x")


def run_unprivileged(project: Project, *arguments: Any) -> Result:
    """Run apply.py as a user who may not write everywhere: root would pass every check."""
    if os.geteuid() != 0:
        return project.run(*arguments)
    project.capture()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setgid(65534)
            os.setuid(65534)
            sys.stderr = os.fdopen(write, "w")
            status = project.module.main([str(argument) for argument in arguments])
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        err = pipe.read()
    return Result(os.WEXITSTATUS(os.waitpid(child, 0)[1]), "", err)


@posix_only
@pytest.mark.usefixtures("reachable")
@pytest.mark.parametrize("place", ["utils", "behind the link", "our folder"])
def test_no_write_permission_is_refused(make: Make, checkout: Path, tmp_path: Path, place: str) -> None:
    project, folder = make(), checkout / "utils"
    if place == "behind the link":
        folder = tmp_path / "elsewhere"
        write_tree(folder, {"shared.py": ORIGINAL})
        (checkout / MODULE).unlink()
        (checkout / MODULE).symlink_to(folder / "shared.py")
        (checkout / "utils").chmod(0o777)
    if place == "our folder":
        project.run(checkout)
        (checkout / "utils").chmod(0o777)
        folder = checkout / "utils" / "thop"
    folder.chmod(0o555)
    before = snapshot(tmp_path)
    arguments = (checkout, "--revert") if place == "our folder" else (checkout,)
    result = run_unprivileged(project, *arguments)
    assert (result.status, snapshot(tmp_path)) == (1, before)
    assert result.err == f"apply.py: no permission to write in {folder}; nothing was changed\n"
    folder.chmod(0o755)


@posix_only
@pytest.mark.usefixtures("reachable")
def test_a_file_that_may_not_be_read_is_refused(make: Make, checkout: Path) -> None:
    project = make()
    (checkout / MODULE).chmod(0)
    before = times(checkout)
    result = run_unprivileged(project, checkout)
    assert result.status == 1 and times(checkout) == before
    assert result.err.count("\n") == 1 and "torch_utils.py" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--check",),
        (".", "--check", "--diff"),
        (".", "--diff", "--revert"),
        (".", "--no-such"),
        (".", "."),
    ],
)
def test_usage_errors_exit_with_2(make: Make, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        make().run(*arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("name", "data", "naming"),
    [
        (MODULE, b"# >>> yolov5 memory access >>>\n", "each marker line once"),
        ("utils/thop/__init__.py", b"version = 1\n", "__version__"),
        ("utils/thop/hooks.py", b"def\n", "hooks.py, line 1"),
        (
            MODULE,
            "# >>> yolov5 memory access >>>\n# \u8bbf\n# <<< yolov5 memory access <<<\n".encode(),
            "must be ASCII",
        ),
        (
            MODULE,
            b"# >>> yolov5 memory access >>>\nfrom __future__ import x\n# <<< yolov5 memory access <<<\n",
            "does not fit",
        ),
    ],
)
def test_a_broken_copy_of_this_project_writes_nothing(
    make: Make, checkout: Path, name: str, data: bytes, naming: str
) -> None:
    project = make()
    (project.root / name).write_bytes(data)
    assert_refused(project, checkout, checkout, naming=naming)


# ---- interruptions -------------------------------------------------------------------------------

KILLER = """
import builtins, importlib.util, os, sys
path, limit, names = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
count = 0
def wrap(name, real):
    def mutate(*arguments, **options):
        global count
        if name == "open" and not arguments[1] & os.O_CREAT:
            return real(*arguments, **options)
        count += 1
        if count == limit:
            if name == "write":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os._exit(137)
        return real(*arguments, **options)
    return mutate
real_open = builtins.open
def only_reading(file, mode="r", *arguments, **options):
    assert not set(mode) & set("wax+"), "a write that this test does not see"
    return real_open(file, mode, *arguments, **options)
spec = importlib.util.spec_from_file_location("apply", path)
module = importlib.util.module_from_spec(spec)
sys.modules["apply"] = module
sys.dont_write_bytecode = True
spec.loader.exec_module(module)
for name in names:
    setattr(os, name, wrap(name, getattr(os, name)))
builtins.open = only_reading
sys.exit(module.main(sys.argv[4:]))
"""


@dataclass(frozen=True)
class Scene:
    """A run that is going to be disturbed, and the trees before and after it."""

    project: Project
    root: Path
    arguments: tuple[Any, ...]
    original: dict[str, tuple[str, int, bytes]]
    before: dict[str, tuple[str, int, bytes]]
    patched: dict[str, tuple[str, int, bytes]]
    store: Path

    def restore(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.store, self.root, symlinks=True)
        assert snapshot(self.root) == self.before


@pytest.fixture(params=["apply", "upgrade", "revert"])
def scene(request: Any, make: Make, tmp_path: Path) -> Scene:
    old, new = make("1.0.0", gone__dot__py=b"x = 1\n"), make("1.1.0", added__dot__py=b"y = 2\n")
    root, model = make_checkout(tmp_path / "yolov5", ORIGINAL[:-1]), tmp_path / "model"
    (root / MODULE).chmod(0o640)
    original = snapshot(root)
    shutil.copytree(root, model)
    new.run(model)
    patched = snapshot(model)
    if request.param == "upgrade":
        old.run(root)
    if request.param == "revert":
        new.run(root)
    if request.param != "apply":
        write_tree(root, {"utils/thop/__pycache__/hooks.cpython-311.pyc": b"compiled"})
    shutil.copytree(root, tmp_path / "store")
    arguments = (root, "--revert") if request.param == "revert" else (root,)
    return Scene(new, root, arguments, original, snapshot(root), patched, tmp_path / "store")


def test_a_kill_between_any_two_writes_can_be_repaired(scene: Scene, tmp_path: Path) -> None:
    runner = tmp_path / "killer.py"
    runner.write_text(KILLER)
    script = scene.project.root / "patches" / "apply.py"
    wanted = scene.original if "--revert" in scene.arguments else scene.patched
    kills = 0
    while True:
        scene.restore()
        command = [sys.executable, "-S", "-E", str(runner), str(script), str(kills + 1), ",".join(MUTATIONS)]
        done = subprocess.run([*command, *map(str, scene.arguments)], stdout=subprocess.PIPE, timeout=60)
        if done.returncode == 0:
            break
        assert done.returncode == 137
        kills += 1
        source = (scene.root / MODULE).read_bytes()
        compile(source, MODULE, "exec")
        block = b"# >>> yolov5 memory access" in source
        upgrade = scene.before != scene.original and "--revert" not in scene.arguments
        assert upgrade or not block or (scene.root / "utils/thop/hooks.py").is_file()
        shutil.copytree(scene.root, tmp_path / f"killed{kills}")
        check = scene.project.run(scene.root, "--check")
        assert check.status == int(not check.out.startswith("applied"))
        assert snapshot(scene.root) == scene.before or "\n  an interrupted" in check.out or "incomp" in check.out
        for follow, result in ((), scene.patched), (("--revert",), scene.original):
            if follow:
                shutil.rmtree(scene.root)
                shutil.copytree(tmp_path / f"killed{kills}", scene.root)
            caches = (scene.root / "utils/thop/__pycache__").exists()
            assert scene.project.run(scene.root, *follow).status == 0
            left = snapshot(scene.root)
            if caches and not follow:  # a folder that is right already is not written again
                left = {name: value for name, value in left.items() if "__pycache__" not in name}
            assert left == result
    assert snapshot(scene.root) == wanted
    assert kills > 8


def fail_from(monkeypatch: Any, first: int, last: float) -> list[int]:
    """Let the mutations number `first` to `last` fail; return the counter."""
    count = [0]

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def mutate(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **options)
            count[0] += 1
            if first <= count[0] <= last:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
            return real(*arguments, **options)

        return mutate

    for name in MUTATIONS:
        monkeypatch.setattr(os, name, wrap(name, getattr(os, name)))
    return count


@pytest.mark.parametrize("lasting", [False, True], ids=["one failure", "all from there on"])
def test_a_failure_at_any_write_is_taken_back(scene: Scene, monkeypatch: Any, lasting: bool) -> None:
    failures = 0
    while True:
        scene.restore()
        with monkeypatch.context() as patch:
            fail_from(patch, failures + 1, float("inf") if lasting else failures + 1)
            result = scene.project.run(*scene.arguments)
        if result.status == 0:
            break
        failures += 1
        assert result.status == 1 and result.err.count("\n") == 1
        assert os.strerror(errno.ENOSPC) in result.err
        if "nothing was changed" in result.err:
            assert snapshot(scene.root) == scene.before
        else:
            assert lasting and "run apply.py again" in result.err
            assert scene.project.run(scene.root, "--revert").status == 0
            assert snapshot(scene.root) == scene.original
    assert failures > 8
    assert snapshot(scene.root) == (scene.original if "--revert" in scene.arguments else scene.patched)


def test_an_interrupt_from_the_keyboard_is_taken_back(scene: Scene, monkeypatch: Any) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        result = scene.project.run(*scene.arguments)
    assert (result.status, result.err) == (1, "apply.py: interrupted; nothing was changed\n")
    assert snapshot(scene.root) == scene.before


@pytest.mark.parametrize("action", [(), ("--revert",)], ids=str)
def test_left_overs_of_another_run_are_removed(make: Make, checkout: Path, action: tuple[str, ...]) -> None:
    project, before = make(), snapshot(checkout)
    if not action:
        project.run(checkout)
        before = snapshot(checkout)
    files = [".yolov5-memory-access-old/a/b.py", ".yolov5-memory-access-file", ".yolov5-memory-access-x"]
    write_tree(checkout / "utils", dict.fromkeys(files, b""))
    assert "left temporary files" in project.run(checkout, "--check").out
    result = project.run(checkout, *action)
    assert result.status == 0 and "left-overs" in result.out
    assert snapshot(checkout) == before


# ---- the real thing ------------------------------------------------------------------------------


def test_it_runs_as_a_script_and_its_words_are_ascii(make: Make, tmp_path: Path) -> None:
    project = make()
    root = make_checkout(tmp_path / "with a space")
    calls = (root, "--check"), (root,), (root, "--check"), (root, "--revert"), (root / "x",)
    for arguments, status in zip(calls, (1, 0, 0, 0, 1)):
        result = project.script(*arguments)
        assert result.returncode == status
        assert (result.stdout + result.stderr).isascii() and (result.stdout + result.stderr).strip()
    assert f'"{root}" --revert' in project.run(root).out


def test_it_imports_the_standard_library_only() -> None:
    names = set()
    for file in SCRIPT.parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes(), feature_version=(3, 8))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    known = "__future__ argparse ast codecs dataclasses difflib hashlib json os re stat sys typing warnings patches"
    assert names <= set(known.split())


COMMENT = "\u5de5\u5177"  # two letters that GBK writes in bytes that are no UTF-8
ENCODED = {
    "a comment before it": f"# {COMMENT}\n# -*- coding: gbk -*-\nx = '{COMMENT}'\n".encode("gbk"),
    "on the first line": f"# coding=gbk {COMMENT}\nx = '{COMMENT}'\n".encode("gbk"),
    "on the second line": f"#!/usr/bin/python\n# vim: set fileencoding=gbk : {COMMENT}\ny = 1\n".encode("gbk"),
    "latin": "# coding: latin-1\nx = '\u00e9'\n".encode("latin-1"),
    "a mark": b"\xef\xbb\xbfx = 1\n",
}


@pytest.mark.parametrize("kind", ENCODED)
def test_sources_in_other_encodings_are_taken(make: Make, checkout: Path, kind: str) -> None:
    """Python imports them, with the block and without."""
    project = make()
    (checkout / MODULE).write_bytes(ENCODED[kind])
    before = snapshot(checkout)
    for arguments in ((checkout,), (checkout, "--check"), (checkout, "--diff")):
        assert project.run(*arguments).status == 0
    compile((checkout / MODULE).read_bytes(), MODULE, "exec")
    assert project.run(checkout, "--revert").status == 0 and snapshot(checkout) == before


def test_what_has_no_ascii_lines_is_refused(make: Make, checkout: Path) -> None:
    for data, reason in ((b"# coding: utf-16\nx = 1\n", "encoding"), (b"# coding: no-such\nx = 1\n", "does not parse")):
        (checkout / MODULE).write_bytes(data)
        result = make().run(checkout)
        assert result.status == 1 and (reason in result.err or "does not parse" in result.err)
        assert (checkout / MODULE).read_bytes() == data


def test_an_older_python_is_told_which_it_needs() -> None:
    program = "import sys; sys.version_info = (3, 7, 9); sys.argv = ['apply.py']; exec(open(sys.argv[0]).read())"
    program = program.replace("open(sys.argv[0])", f"open({str(SCRIPT)!r})")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "apply.py: needs Python 3.8 or newer, and this is 3.7\n")


def test_the_real_block_and_profiler_go_in_and_out(make: Make, checkout: Path, capsys: Any) -> None:
    if not (REPOSITORY / MODULE).is_file() or not (REPOSITORY / "utils/thop/__init__.py").is_file():
        pytest.skip("utils/ is not written yet")
    before = snapshot(checkout)
    command = [sys.executable, str(SCRIPT), str(checkout)]
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    assert (checkout / MODULE).read_bytes().startswith(ORIGINAL)
    for path in (REPOSITORY / "utils/thop").glob("*.py"):
        assert (checkout / "utils/thop" / path.name).read_bytes() == path.read_bytes()
    subprocess.run([*command, "--revert"], check=True, stdout=subprocess.PIPE)
    assert snapshot(checkout) == before
