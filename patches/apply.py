"""Put memory access into a YOLOv5 checkout, show what that would change, or take it out again.

    python patches/apply.py PATH             apply, or replace another version of it
    python patches/apply.py PATH --check     say whether it is applied, and which version
    python patches/apply.py PATH --diff      print the change as a unified diff, write nothing
    python patches/apply.py PATH --revert    take it out, byte for byte

PATH is the folder of a YOLOv5 checkout or of the installed package (site-packages/yolov5).

Two things travel: the block between the two marker lines of this project's utils/torch_utils.py, which is
appended to the checkout's own file, and the folder utils/thop. Everything is prepared and compiled in memory
before the first write, and every write can be undone. Standard library only; torch is not needed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import json
import os
import re
import stat
import sys
import tokenize
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Callable, Iterator, Sequence

# Whole lines, word for word, in this project's own source. In a checkout the first carries the version too.
BEGIN = "# >>> yolov5 memory access >>>"
END = "# <<< yolov5 memory access <<<"
MODULE = "utils/torch_utils.py"
FOLDER = "utils/thop"
RIVAL_MODULE = "utils/thop.py"
MANIFEST = "patch.json"
TOOL = "yolov5-memory-access"
PREFIX = ".yolov5-memory-access-"  # every temporary name starts so: what a killed run leaves can be told
SOURCE_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

_BEGIN_COPY = re.compile(rb"# >>> yolov5 memory access (\S+) >>>")
_REMARK = "# Added by patches/apply.py, which also takes it out (--revert). Please edit nothing in this block."
# The note makes a block complete in itself. YOLOv5's .gitignore lists *.json, so a patched checkout that was
# committed and cloned has lost its manifest. Later versions have to go on reading this form.
_NOTE = re.compile(
    r"^# added: (?P<blank>\d) blank lines, final newline (?P<newline>kept|added)\n"
    r"# original: (?P<original>[0-9a-f]{64})\n"
    r"# files: (?P<files>[0-9a-f]{64})\n"
    r"# block: (?P<seal>[0-9a-f]{64})\n",
    re.MULTILINE,
)


class Refusal(Exception):
    """Why nothing was done, in one line for the user."""


# ---- what lies where -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """What this project puts into a checkout."""

    version: str
    body: list[str]  # the lines between the markers
    files: dict[str, bytes]  # of utils/thop, by name with forward slashes


@dataclass(frozen=True)
class Note:
    """What has to be known to take a block out byte for byte."""

    blank: int  # blank lines put before the block
    newline_added: bool  # the file had no newline at its end
    original: str  # digest of the file without the block
    files: str  # digest of the folder that belongs to the block


@dataclass(frozen=True)
class Block:
    """A block found in a checkout; `note` is None when somebody edited the block."""

    start: int
    end: int
    line: int
    version: str
    ending: bytes
    note: Note | None


@dataclass(frozen=True)
class Tree:
    """All that a folder holds, by name with forward slashes."""

    files: dict[str, bytes]
    caches: list[str]  # files in __pycache__
    folders: list[str]  # parents before children
    odd: list[str]  # links, sockets and the like


@dataclass(frozen=True)
class Folder:
    """A utils/thop that this project wrote."""

    tree: Tree
    version: str
    files: dict[str, bytes]  # ours, the manifest included
    has_manifest: bool
    edited: list[str]
    missing: list[str]
    foreign: list[str]  # put there by somebody else


@dataclass(frozen=True)
class Checkout:
    """What was found under PATH."""

    root: str
    target: str  # where torch_utils.py really lies
    status: os.stat_result
    data: bytes
    block: Block | None
    folder: Folder | None
    rivals: list[str]  # a utils/thop or utils/thop.py of somebody else
    stale: list[str]  # paths that a killed run left behind

    def path(self, name: str) -> str:
        return os.path.join(self.root, *name.split("/"))


@dataclass(frozen=True)
class Wanted:
    """What the checkout shall hold afterwards; no files: no utils/thop."""

    module: bytes
    files: dict[str, bytes]


def digest(data: bytes) -> str:
    """Return the sha256 of `data` with its line endings read as LF: git may convert those in a clone."""
    return hashlib.sha256(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")).hexdigest()


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: digest(files[name]) for name in sorted(files)}


def folder_digest(files: dict[str, bytes]) -> str:
    """Return one digest for the names and contents of a folder, its manifest left out."""
    rows = [f"{name} {value}\n" for name, value in digests(files).items() if name != MANIFEST]
    return digest("".join(rows).encode("utf-8"))


def read_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def read_tree(top: str) -> Tree:
    """Read everything below the folder `top`, following no link."""
    tree = Tree({}, [], [], [])

    def visit(inner: str) -> None:
        with os.scandir(os.path.join(top, inner)) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                name = f"{inner}/{entry.name}" if inner else entry.name
                if entry.is_dir(follow_symlinks=False):
                    tree.folders.append(name)
                    visit(name)
                elif not entry.is_file(follow_symlinks=False):
                    tree.odd.append(name)
                elif inner.rsplit("/", 1)[-1] == "__pycache__":
                    tree.caches.append(name)
                else:
                    tree.files[name] = read_bytes(entry.path)

    visit("")
    return tree


def compile_or_refuse(data: bytes, name: str) -> None:
    """Refuse a source that Python can't compile, with the line where it stops."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise Refusal(f"{name}{where}: does not parse ({error.msg})") from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise Refusal(f"{name}: does not parse ({error})") from None


# ---- this project's side -------------------------------------------------------------------------


def load_source(root: str = SOURCE_ROOT) -> Source:
    """Read and compile what goes into a checkout from the clone that this script lies in."""
    files = _source_files(os.path.join(root, *FOLDER.split("/")))
    module = os.path.join(root, *MODULE.split("/"))
    if "__init__.py" not in files or not os.path.isfile(module):
        raise Refusal(f"this copy of the project is incomplete: {MODULE} or {FOLDER} is missing in {root}")
    for name, data in files.items():
        if name.endswith(".py"):
            compile_or_refuse(data, os.path.join(root, *FOLDER.split("/"), name))
    return Source(_version(files["__init__.py"]), _source_body(read_bytes(module), module), files)


def _source_files(folder: str) -> dict[str, bytes]:
    found = {}
    for top, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name != "__pycache__" and not name.startswith(".")]
        for name in names:
            if name.startswith((".", "#")) or name == MANIFEST:
                continue
            if name.endswith(("~", ".pyc", ".pyo", ".bak", ".orig", ".rej", ".swp", ".tmp")):
                continue
            path = os.path.join(top, name)
            found[os.path.relpath(path, folder).replace(os.sep, "/")] = read_bytes(path)
    return found


def _version(init: bytes) -> str:
    for node in ast.parse(init).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            value = node.value.value
            if (
                "__version__" in names
                and isinstance(value, str)
                and re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*", value)
            ):
                return value
    raise Refusal(f'internal error: no __version__ = "x.y.z" in this project\'s {FOLDER}/__init__.py')


def _source_body(data: bytes, name: str) -> list[str]:
    lines = data.splitlines()
    stripped = [line.rstrip() for line in lines]
    if stripped.count(BEGIN.encode()) != 1 or stripped.count(END.encode()) != 1:
        raise Refusal(f"internal error: {name} must hold each marker line once")
    body = b"\n".join(lines[stripped.index(BEGIN.encode()) + 1 : stripped.index(END.encode())])
    if any(byte > 127 for byte in body):
        raise Refusal(f"internal error: {name} must be ASCII between the markers")
    return body.decode("ascii").split("\n")


# ---- the checkout's side -------------------------------------------------------------------------


def open_checkout(root: str) -> Checkout:
    """Look at PATH and refuse what is no checkout; nothing is written."""
    module = os.path.join(root, *MODULE.split("/"))
    if not os.path.lexists(root):
        raise Refusal(f"no such folder: {root}")
    if not os.path.isdir(root):
        raise Refusal(f"{root} is not a folder; {_what_path_is(root)}")
    if os.path.realpath(root) == SOURCE_ROOT:
        raise Refusal(f"{root} is this project itself; {_what_path_is(root)}")
    if not os.path.lexists(module):
        raise Refusal(f"no {MODULE} in {root}; {_what_path_is(root)}")
    target = os.path.realpath(module)
    if not os.path.isfile(target):
        raise Refusal(f"{module} is not a regular file")
    data = read_bytes(target)
    if _is_source(data) and os.path.isfile(os.path.join(root, "patches", "apply.py")):
        raise Refusal(f"{root} is this project itself; {_what_path_is(root)}")
    block = find_block(data, module)
    folder = _find_folder(os.path.join(root, *FOLDER.split("/")), block)
    rivals = [] if folder else [FOLDER]
    rivals.append(RIVAL_MODULE)
    rivals = [name for name in rivals if os.path.lexists(os.path.join(root, *name.split("/")))]
    stale = _find_stale([os.path.join(root, "utils"), os.path.dirname(target)])
    return Checkout(root, target, os.stat(target), data, block, folder, rivals, stale)


def _what_path_is(root: str) -> str:
    parent = os.path.dirname(os.path.abspath(root))
    children: list[str] = []
    if os.path.isdir(root):
        children = [os.path.join(root, name) for name in sorted(os.listdir(root))]
    for candidate in [os.path.join(root, "yolov5"), parent, os.path.dirname(parent), *children]:
        found = os.path.isfile(os.path.join(candidate, *MODULE.split("/")))
        if found and os.path.realpath(candidate) not in (SOURCE_ROOT, os.path.realpath(root)):
            return f"did you mean {candidate} ?"
    return "PATH is a YOLOv5 checkout (with train.py, models/ and utils/) or an installed site-packages/yolov5"


def _is_source(data: bytes) -> bool:
    return BEGIN.encode() in [line.rstrip() for line in data.splitlines()]


def find_block(data: bytes, name: str) -> Block | None:
    """Return the one block in a checkout's file, None if there is none; refuse broken markers."""
    lines = data.splitlines(keepends=True)
    begins: list[int] = []
    ends: list[int] = []
    for number, line in enumerate(lines):
        text = line.rstrip()
        if text == BEGIN.encode():
            raise Refusal(f"{name}, line {number + 1}: this project's source block, copied by hand; remove it first")
        if _BEGIN_COPY.fullmatch(text):
            begins.append(number)
        elif text == END.encode():
            ends.append(number)
    if not begins and not ends:
        return None
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
        where = ", ".join(str(number + 1) for number in sorted(begins + ends))
        raise Refusal(f"{name}: begin and end markers do not pair up (line {where}); remove that block by hand")
    first, last = begins[0], ends[0]
    start = sum(map(len, lines[:first]))
    inside = b"".join(lines[first : last + 1])
    match = _BEGIN_COPY.fullmatch(lines[first].rstrip())
    version = match.group(1).decode("ascii", "replace") if match else ""
    ending = _ending(lines[first]) or b"\n"
    return Block(start, start + len(inside), first + 1, version, ending, _read_note(inside))


def _read_note(inside: bytes) -> Note | None:
    text = "\n".join(line.decode("latin-1") for line in inside.splitlines()) + "\n"
    match = _NOTE.search(text)
    if match is None or match["seal"] != _seal(text[: match.start("seal")] + text[match.end("seal") :]):
        return None
    return Note(int(match["blank"]), match["newline"] == "added", match["original"], match["files"])


def _seal(text: str) -> str:
    return digest(text.encode("latin-1"))


def _ending(line: bytes) -> bytes:
    return line[len(line.rstrip(b"\r\n")) :]


def _find_folder(path: str, block: Block | None) -> Folder | None:
    if os.path.islink(path) or not os.path.isdir(path):
        return None
    tree = read_tree(path)
    manifest = _read_manifest(tree.files.get(MANIFEST, b""))
    if manifest is not None:
        version, recorded = manifest
    elif block and block.note and block.note.files == folder_digest(tree.files):
        version, recorded = block.version, digests(tree.files)
        recorded.pop(MANIFEST, None)
    else:
        return None
    names = {*recorded, MANIFEST}
    files = {name: data for name, data in tree.files.items() if name in names}
    edited = [name for name in recorded if name in files and digest(files[name]) != recorded[name]]
    missing = [name for name in recorded if name not in files]
    return Folder(tree, version, files, manifest is not None, edited, missing, _foreign(tree, names))


def _read_manifest(data: bytes) -> tuple[str, dict[str, str]] | None:
    try:
        manifest = json.loads(data.decode("utf-8"))
    except ValueError:
        return None
    if not isinstance(manifest, dict) or manifest.get("tool") != TOOL:
        return None
    version, files = manifest.get("version"), manifest.get("files")
    if not isinstance(version, str) or not isinstance(files, dict) or "__init__.py" not in files:
        return None
    return (version, files) if all(isinstance(value, str) for value in files.values()) else None


def _foreign(tree: Tree, names: set[str]) -> list[str]:
    """Name what is in our folder and is neither ours nor Python's cache of ours."""
    homes = {""}
    for name in names:
        for depth in range(1, name.count("/") + 1):
            homes.add("/".join(name.split("/")[:depth]))
    found = [name for name in tree.files if name not in names] + tree.odd
    for name in tree.caches:
        cache, leaf = name.rsplit("/", 1)
        module = cache[: -len("__pycache__")] + leaf.split(".", 1)[0] + ".py"
        if not leaf.endswith(".pyc") or module not in names:
            found.append(name)
    for name in tree.folders:
        parent, leaf = name.rpartition("/")[::2]
        if name not in homes and not (leaf == "__pycache__" and parent in homes):
            found.append(name)
    return sorted(found)


def _find_stale(folders: list[str]) -> list[str]:
    found = {}
    for folder in folders:
        for name in sorted(os.listdir(folder)):
            if name.startswith(PREFIX):
                path = os.path.join(folder, name)
                found[os.path.realpath(path)] = path
    return list(found.values())


# ---- what it shall become ------------------------------------------------------------------------


def wanted_by_apply(checkout: Checkout, source: Source) -> Wanted:
    """Work out file and folder with this version in them; refuse what must not be overwritten."""
    module = checkout.path(MODULE)
    compile_or_refuse(checkout.data, module)
    if checkout.rivals:
        raise Refusal(f"{checkout.path(checkout.rivals[0])} is not from this project; move it away first")
    data, block = checkout.data, checkout.block
    if block and block.note is None:
        raise _edited_block(checkout, block)
    if block and block.note:
        ending, note, before, after = block.ending, block.note, data[: block.start], data[block.end :]
        note = Note(note.blank, note.newline_added, note.original, folder_digest(source.files))
    else:
        ending = next((_ending(line) for line in reversed(data.splitlines(True)) if _ending(line)), b"\n")
        newline_added = bool(data) and not data.endswith((b"\n", b"\r"))
        note = Note(2 if data else 0, newline_added, digest(data), folder_digest(source.files))
        before, after = data + ending * (note.blank + note.newline_added), b""
    text = render_block(source, note)
    rendered = text.encode("ascii").replace(b"\n", ending)
    if block and not after and not data.endswith((b"\n", b"\r")):
        rendered = rendered[: -len(ending)]  # an editor took the last newline away: no reason to write again
    result = before + rendered + after
    _check_result(checkout, result, rendered)
    files = {**source.files, MANIFEST: render_manifest(source, note, text)}
    if checkout.folder:
        if digests(files) == digests(checkout.folder.files):
            files = checkout.folder.files
        else:
            refuse_if_touched(checkout, checkout.folder)
    return Wanted(result, files)


def render_block(source: Source, note: Note) -> str:
    """Return the block as it stands in a checkout, with LF endings."""
    begin = BEGIN.replace("access", f"access {source.version}")
    newline = "added" if note.newline_added else "kept"
    head = f"{begin}\n# added: {note.blank} blank lines, final newline {newline}\n"
    head += f"# original: {note.original}\n# files: {note.files}\n# block: "
    tail = "\n".join(["", _REMARK, *source.body, END, ""])
    return head + _seal(head + tail) + tail


def render_manifest(source: Source, note: Note, block: str) -> bytes:
    """Return patch.json, which tells this project's utils/thop from any other."""
    manifest = {
        "tool": TOOL,
        "about": "Written by patches/apply.py. sha256 values are taken with line endings read as LF.",
        "version": source.version,
        "files": digests(source.files),
        "block": digest(block.encode("ascii")),
        "original": note.original,
        "blank_lines_added": note.blank,
        "final_newline_added": note.newline_added,
    }
    return (json.dumps(manifest, indent=2) + "\n").encode("ascii")


def _check_result(checkout: Checkout, result: bytes, rendered: bytes) -> None:
    name = checkout.path(MODULE)
    encoding, _ = tokenize.detect_encoding(BytesIO(b"\n".join(checkout.data.splitlines()[:2])).readline)
    if rendered.decode(encoding, "replace") != rendered.decode("ascii"):
        raise Refusal(f"{name}: its encoding, {encoding}, can't hold plain ASCII lines")
    try:
        compile_or_refuse(result, name)
    except Refusal as refusal:
        raise Refusal(f"the block does not fit to the end of the file: {refusal}") from None


def without_block(data: bytes, block: Block) -> bytes:
    """Take out a block and what was added for it, and nothing else."""
    note = block.note
    if note is None:
        raise ValueError("an edited block can't be taken out")
    before, after = data[: block.start], data[block.end :]
    for _ in range(note.blank):
        if before.endswith(block.ending * 2):  # fewer may be left where the user edited
            before = before[: -len(block.ending)]
    # With text of the user's after the block, our newline is what keeps their line apart from the one before.
    if note.newline_added and not after and before.endswith(block.ending):
        before = before[: -len(block.ending)]
    return before + after


def _edited_block(checkout: Checkout, block: Block) -> Refusal:
    name = checkout.path(MODULE)
    return Refusal(f"{name} has been edited inside the block at line {block.line}; undo that edit first")


def refuse_if_touched(checkout: Checkout, folder: Folder) -> None:
    """Refuse to remove a folder that holds work of the user's."""
    for name in folder.edited:
        raise Refusal(f"{checkout.path(f'{FOLDER}/{name}')} has been edited since; move it away first")
    for name in folder.foreign:
        raise Refusal(f"{checkout.path(f'{FOLDER}/{name}')} is not from this project; move it away first")


# ---- writing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One change on disk and its opposite, which also has to cope with a change half or not made."""

    what: str
    do: Callable[[], None]
    undo: Callable[[], None]


def perform(steps: list[Step]) -> None:
    """Take all steps, or none: after a failure, take back those begun."""
    begun: list[Step] = []
    try:
        for step in steps:
            begun.append(step)
            step.do()
    except BaseException as error:
        left = _take_back(begun)
        if left:
            raise Refusal(f"{_told(begun[-1], error)}; then {left}; run apply.py again to repair that") from None
        if isinstance(error, OSError):
            raise Refusal(f"{_told(begun[-1], error)}; nothing was changed") from None
        raise


def _take_back(begun: list[Step]) -> str:
    failed = ""
    for step in reversed(begun):
        try:
            step.undo()
        except OSError as error:
            failed = failed or f"could not take back: {step.what} ({error.strerror or error})"
    return failed


def _told(step: Step, error: BaseException) -> str:
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    return f"could not {step.what}: {reason}"


def _write_file(path: str, data: bytes, mode: int, like: os.stat_result) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
    finally:
        os.close(handle)
    _give_owner(path, like)
    if mode:
        os.chmod(path, mode)


def _give_owner(path: str, like: os.stat_result) -> None:
    """Under sudo or in a container, what root writes goes to the owner of the checkout."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        made = os.stat(path)
        if (made.st_uid, made.st_gid) != (like.st_uid, like.st_gid):
            os.chown(path, like.st_uid, like.st_gid)


def _remove_file(path: str) -> None:
    if os.path.lexists(path):
        if os.name == "nt":  # which deletes no read-only file
            os.chmod(path, stat.S_IWRITE)
        os.unlink(path)


def _move_over(temporary: str, target: str) -> None:
    if os.name != "nt":
        os.replace(temporary, target)
        return
    mode = stat.S_IMODE(os.stat(target).st_mode)
    os.chmod(target, stat.S_IWRITE)  # Windows replaces no read-only file
    try:
        os.replace(temporary, target)
    except BaseException:
        os.chmod(target, mode)
        raise


def new_file(path: str, data: bytes, mode: int, like: os.stat_result) -> Step:
    """Write a file that is not there; mode 0 stands for what the umask allows."""
    return Step(f"write {path}", lambda: _write_file(path, data, mode, like), lambda: _remove_file(path))


def new_folder(path: str, like: os.stat_result) -> Step:
    def do() -> None:
        os.mkdir(path)
        _give_owner(path, like)

    def undo() -> None:
        if os.path.isdir(path):
            os.rmdir(path)

    return Step(f"create {path}", do, undo)


def move_folder(old: str, new: str) -> Step:
    def undo() -> None:
        if not os.path.lexists(old):
            os.rename(new, old)

    return Step(f"rename {old} to {new}", lambda: os.rename(old, new), undo)


def replace_file(temporary: str, target: str, before: bytes, status: os.stat_result) -> Step:
    """Let a written temporary file take the place of `target`, whose content was `before`."""

    def undo() -> None:
        if read_bytes(target) != before:
            _write_file(temporary, before, stat.S_IMODE(status.st_mode), status)
            _move_over(temporary, target)

    return Step(f"replace {target}", lambda: _move_over(temporary, target), undo)


def delete_file(path: str) -> Step:
    kept: list[tuple[bytes, os.stat_result]] = []

    def do() -> None:
        kept.append((read_bytes(path), os.stat(path)))
        _remove_file(path)

    def undo() -> None:
        if not os.path.lexists(path):
            data, status = kept[0]
            _write_file(path, data, stat.S_IMODE(status.st_mode), status)

    return Step(f"delete {path}", do, undo)


def delete_folder(path: str) -> Step:
    kept: list[os.stat_result] = []

    def do() -> None:
        kept.append(os.stat(path))
        os.rmdir(path)

    def undo() -> None:
        if not os.path.isdir(path):
            os.mkdir(path)
            _give_owner(path, kept[0])
            os.chmod(path, stat.S_IMODE(kept[0].st_mode))

    return Step(f"delete {path}", do, undo)


def delete_tree(top: str, tree: Tree) -> Iterator[Step]:
    """Delete what `tree` lists below `top`, file by file, and `top` last."""
    for name in [*tree.files, *tree.caches]:
        yield delete_file(os.path.join(top, *name.split("/")))
    for name in reversed(tree.folders):
        yield delete_folder(os.path.join(top, *name.split("/")))
    yield delete_folder(top)


def delete_stale(path: str) -> Iterator[Step]:
    """Delete what a killed run left behind."""
    if os.path.islink(path) or not (os.path.isfile(path) or os.path.isdir(path)):
        raise Refusal(f"{path} is neither a file nor a folder; move it away first")
    if os.path.isfile(path):
        yield delete_file(path)
        return
    tree = read_tree(path)
    for name in tree.odd:
        raise Refusal(f"{os.path.join(path, name)} is neither a file nor a folder; move it away first")
    yield from delete_tree(path, tree)


def new_tree(top: str, files: dict[str, bytes], like: os.stat_result) -> Iterator[Step]:
    """Write `files` into a folder that is not there."""
    made = {top}
    yield new_folder(top, like)
    for name in sorted(files):
        parts = name.split("/")
        for depth in range(1, len(parts)):
            folder = os.path.join(top, *parts[:depth])
            if folder not in made:
                made.add(folder)
                yield new_folder(folder, like)
        yield new_file(os.path.join(top, *parts), files[name], 0, like)


def plan(checkout: Checkout, wanted: Wanted) -> list[Step]:
    """List the steps to `wanted`: first all that needs room on the disk, then renames, then deletions.

    A block without its folder does not work, a folder without a block does no harm. So the folder goes in
    before the block, and the block goes out before the folder.
    """
    utils, place = checkout.path("utils"), checkout.path(FOLDER)
    fresh, old = os.path.join(utils, f"{PREFIX}new"), os.path.join(utils, f"{PREFIX}old")
    temporary = os.path.join(os.path.dirname(checkout.target), f"{PREFIX}file")
    folder = checkout.folder
    moves = wanted.files != (folder.files if folder else {})
    steps = [step for path in checkout.stale for step in delete_stale(path)]
    if moves and wanted.files:
        steps += new_tree(fresh, wanted.files, os.stat(utils))
    swap = [move_folder(place, old)] if moves and folder else []
    if moves and wanted.files:
        swap.append(move_folder(fresh, place))
    exchange = []
    if wanted.module != checkout.data:
        mode = stat.S_IMODE(checkout.status.st_mode)
        steps.append(new_file(temporary, wanted.module, mode, checkout.status))
        exchange.append(replace_file(temporary, checkout.target, checkout.data, checkout.status))
    steps += swap + exchange if wanted.files else exchange + swap
    if moves and folder:
        steps += delete_tree(old, folder.tree)
    if steps:
        _refuse_unwritable(checkout, folder if moves else None)
    return steps


def _refuse_unwritable(checkout: Checkout, folder: Folder | None) -> None:
    places = [checkout.path("utils"), os.path.dirname(checkout.target)]
    if folder:
        places += [checkout.path(name) for name in (FOLDER, *(f"{FOLDER}/{x}" for x in folder.tree.folders))]
    for path in places:
        if not os.access(path, os.W_OK | os.X_OK):
            raise Refusal(f"no permission to write in {path}; nothing was changed")


# ---- what the user asks for ----------------------------------------------------------------------


def apply(checkout: Checkout, source: Source) -> str:
    """Put this version in, and return what to tell the user."""
    wanted = wanted_by_apply(checkout, source)
    steps = plan(checkout, wanted)
    perform(steps)
    block, folder = checkout.block, checkout.folder
    changed = wanted.module != checkout.data or wanted.files != (folder.files if folder else {})
    cleaned = "\n  left-overs of an interrupted run removed" if checkout.stale else ""
    if not changed:
        return f"already applied: memory access {source.version} in {checkout.root}{cleaned}"
    before = block.version if block else folder.version if folder else ""
    if not before:
        done = f"applied: memory access {source.version} to {checkout.root}"
    elif before != source.version:
        done = f"replaced {before} by {source.version}: memory access in {checkout.root}"
    elif block and folder and folder.has_manifest and not folder.missing and _belong(block, folder):
        done = f"replaced another state of {before}: memory access in {checkout.root}"
    else:
        done = f"completed: memory access {source.version} in {checkout.root}"
    told = [
        f"{done}{cleaned}",
        f"  {MODULE}  one block between two marker lines" + ("" if block else ", added at the end"),
        f"  {FOLDER}/  {len(wanted.files)} files",
        "See it: the model summary of train.py, val.py and detect.py now ends in the memory accesses.",
        f"Take it out: python {_quoted(sys.argv[0])} {_quoted(checkout.root)} --revert",
    ]
    return "\n".join(told)


def revert(checkout: Checkout) -> str:
    """Take out what is there, and return what to tell the user."""
    block, folder = checkout.block, checkout.folder
    data = checkout.data
    if block:
        if block.note is None:
            raise _edited_block(checkout, block)
        if FOLDER in checkout.rivals:
            raise Refusal(f"{checkout.path(FOLDER)} is not as apply.py wrote it, and has no valid {MANIFEST}")
        data = without_block(data, block)
    if folder:
        refuse_if_touched(checkout, folder)
    perform(plan(checkout, Wanted(data, {})))
    told = []
    if block and block.note and digest(data) == block.note.original:
        told.append(f"  {MODULE}  is again what it was")
    elif block:
        told.append(f"  {MODULE}  block taken out; other edits to that file were kept")
    if folder:
        told.append(f"  {FOLDER}/  removed")
    if checkout.stale:
        told.append("  left-overs of an interrupted run removed")
    if not told:
        return f"not applied, nothing to take out: {checkout.root}"
    version = block.version if block else folder.version if folder else ""
    return "\n".join([f"taken out: memory access {version}".rstrip() + f" from {checkout.root}", *told])


def check(checkout: Checkout, source: Source) -> str:
    """Say whether, and which version, is applied."""
    block, folder = checkout.block, checkout.folder
    again = f"apply.py {_quoted(checkout.root)}"
    hint = f"{again} completes it, with --revert takes it out"
    notes = [f"{checkout.path(name)} is not from this project" for name in checkout.rivals]
    if block and block.note is None:
        notes.append(f"{checkout.path(MODULE)} has been edited inside the block")
    if folder:
        notes += [f"{checkout.path(f'{FOLDER}/{name}')} has been edited" for name in folder.edited]
        notes += [f"{checkout.path(f'{FOLDER}/{name}')} is not from this project" for name in folder.foreign]
    if block and folder and not folder.has_manifest:
        notes.append(f"{MANIFEST} is gone (YOLOv5's .gitignore skips it); --revert works without it")
    if checkout.stale:
        notes.append("an interrupted run left temporary files, which the next apply or --revert removes")
    if not block and not folder:
        state = f"not applied: {checkout.root}"
    elif not block and folder:
        state = f"incomplete: {checkout.root} has {FOLDER} {folder.version}, no block in {MODULE}; {hint}"
    elif block and not folder:
        state = f"incomplete: {checkout.root} has the block {block.version}, no {FOLDER} for it; {hint}"
    elif block and folder and (folder.missing or not _belong(block, folder)):
        state = f"incomplete: {checkout.root} has the block {block.version} and {FOLDER} {folder.version}"
        state += "".join(f", {name} is missing" for name in folder.missing) + f"; {hint}"
    elif block:
        state = f"applied: memory access {block.version} in {checkout.root}"
        if block.version != source.version:
            state += f" (this is {source.version}: {again} replaces it)"
        elif block.note and not _is_current(checkout, block, block.note, source):
            state += f" (another state of it than this one: {again} replaces it)"
    return "\n  ".join([state, *notes])


def _belong(block: Block, folder: Folder) -> bool:
    """Say whether block and folder were written together, whatever was edited since."""
    if block.version != folder.version:
        return False
    return block.note is None or bool(folder.edited) or block.note.files == folder_digest(folder.files)


def _is_current(checkout: Checkout, block: Block, note: Note, source: Source) -> bool:
    """Say whether the block is the one that this source would write."""
    note = replace(note, files=folder_digest(source.files))
    found = b"\n".join(checkout.data[block.start : block.end].splitlines()) + b"\n"
    return found == render_block(source, note).encode("ascii")


def diff(checkout: Checkout, wanted: Wanted) -> bytes:
    """Return what apply would change as a unified diff that `git apply` and `patch -p1` take."""
    module = MODULE
    real_root = os.path.join(os.path.realpath(checkout.root), "")
    if checkout.target.startswith(real_root):  # neither tool writes through a link
        module = checkout.target[len(real_root) :].replace(os.sep, "/")
    folder = checkout.folder.files if checkout.folder else {}
    before = {f"{FOLDER}/{name}": data for name, data in folder.items()}
    after = {f"{FOLDER}/{name}": data for name, data in wanted.files.items()}
    before[module], after[module] = checkout.data, wanted.module
    names = sorted({*before, *after})
    return b"".join(_file_diff(name, before.get(name), after.get(name)) for name in names)


def _file_diff(name: str, before: bytes | None, after: bytes | None) -> bytes:
    if before == after:
        return b""
    old, new = f"a/{name}".encode(), f"b/{name}".encode()
    head = b"diff --git " + old + b" " + new + b"\n"
    if before is None:
        head, old = head + b"new file mode 100644\n", b"/dev/null"
    if after is None:
        head, new = head + b"deleted file mode 100644\n", b"/dev/null"
    # Only LF ends a line of a diff; a CR before it, or alone, is content.
    texts = [[line for line in re.split(b"(?<=\n)", data or b"") if line] for data in (before, after)]
    rows = difflib.diff_bytes(difflib.unified_diff, texts[0], texts[1], old, new)
    unended = b"\n\\ No newline at end of file\n"
    return head + b"".join(row if row.endswith(b"\n") else row + unended for row in rows)


def _print_diff(checkout: Checkout, source: Source) -> None:
    text = diff(checkout, wanted_by_apply(checkout, source))
    if not text:
        print(f"apply.py: already applied, no difference: {checkout.root}", file=sys.stderr)
    sys.stdout.flush()
    _write(text)


def _tell(text: str) -> None:
    """Print what was done."""
    _write(f"{text}\n".encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def _write(text: bytes) -> None:
    """Write to standard output, unless nobody reads on: what was done is done."""
    try:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # a pager was closed; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path else path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="apply.py", description="Put memory access into a YOLOv5 checkout, or take it out again."
    )
    parser.add_argument("path", metavar="PATH", help="a YOLOv5 checkout or an installed site-packages/yolov5")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="say whether it is applied, and which version")
    action.add_argument("--diff", action="store_true", help="print what would change as a unified diff; write nothing")
    action.add_argument("--revert", action="store_true", help="take it out, byte for byte")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a path may hold letters that the console lacks
    try:
        checkout = open_checkout(arguments.path)
        if arguments.revert:
            _tell(revert(checkout))
        elif arguments.check:
            _tell(check(checkout, load_source()))
        elif arguments.diff:
            _print_diff(checkout, load_source())
        else:
            _tell(apply(checkout, load_source()))
    except Refusal as refusal:
        reason = str(refusal)
    except OSError as error:
        reason = f"{error.filename or arguments.path}: {error.strerror or error}"
    except KeyboardInterrupt:
        reason = "interrupted; nothing was changed"
    else:
        return 0
    print("apply.py: " + " ".join(reason.split("\n")), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
