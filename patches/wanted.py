"""What a checkout shall hold afterwards, and how that differs from what it holds."""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass

from patches.block import Note, ending_of, render_block
from patches.checkout import Checkout, edited_block, refuse_if_touched
from patches.layout import FOLDER, MANIFEST, MODULE, TOOL, Refusal
from patches.python_source import compile_or_refuse, encoding_of
from patches.source import Source
from patches.tree import digest, digests, folder_digest


@dataclass(frozen=True)
class Wanted:
    """What the checkout shall hold afterwards; no files: no utils/thop."""

    module: bytes
    files: dict[str, bytes]


def wanted_by_apply(checkout: Checkout, source: Source) -> Wanted:
    """Work out file and folder with this version in them; refuse what must not be overwritten."""
    module = checkout.path(MODULE)
    compile_or_refuse(checkout.data, module)
    if checkout.rivals:
        raise Refusal(f"{checkout.path(checkout.rivals[0])} is not from this project; move it away first")
    data, block = checkout.data, checkout.block
    if block and block.note is None:
        raise edited_block(checkout, block)
    if block and block.note:
        ending, note, before, after = block.ending, block.note, data[: block.start], data[block.end :]
        note = Note(note.blank, note.newline_added, note.original, folder_digest(source.files))
    else:
        ending = next((ending_of(line) for line in reversed(data.splitlines(True)) if ending_of(line)), b"\n")
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
    encoding = encoding_of(checkout.data)
    if rendered.decode(encoding, "replace") != rendered.decode("ascii"):
        raise Refusal(f"{name}: its encoding, {encoding}, can't hold plain ASCII lines")
    try:
        compile_or_refuse(result, name)
    except Refusal as refusal:
        raise Refusal(f"the block does not fit to the end of the file: {refusal}") from None


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
    names = sorted({*before, *after}, key=lambda name: (name != module, name))  # what is changed, and then what is new
    return b"".join(_file_diff(name, before.get(name), after.get(name)) for name in names)


def counted(checkout: Checkout, wanted: Wanted) -> str:
    """Say in a line what a diff is of."""
    lines = len(wanted.module.splitlines()) - len(checkout.data.splitlines())
    before = checkout.folder.files if checkout.folder else {}
    new = sum(name not in before for name in wanted.files)
    changed = sum(before.get(name) != data for name, data in wanted.files.items()) - new
    gone = sum(name not in wanted.files for name in before)
    kinds = ((new, "new"), (changed, "changed"), (gone, "deleted"))
    files = ", ".join(f"{number} files {what}" for number, what in kinds if number)
    return f"{MODULE}: {lines:+d} lines; {FOLDER}: {files or 'as it is'}"


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
