"""The block in a checkout's file: its marker lines, the note by which it can be taken out byte for byte."""

from __future__ import annotations

import re
from dataclasses import dataclass

from patches.layout import BEGIN, END, Refusal
from patches.source import Source
from patches.tree import digest

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
    ending = ending_of(lines[first]) or b"\n"
    return Block(start, start + len(inside), first + 1, version, ending, _read_note(inside))


def _read_note(inside: bytes) -> Note | None:
    text = "\n".join(line.decode("latin-1") for line in inside.splitlines()) + "\n"
    match = _NOTE.search(text)
    if match is None or match["seal"] != _seal(text[: match.start("seal")] + text[match.end("seal") :]):
        return None
    return Note(int(match["blank"]), match["newline"] == "added", match["original"], match["files"])


def _seal(text: str) -> str:
    return digest(text.encode("latin-1"))


def ending_of(line: bytes) -> bytes:
    return line[len(line.rstrip(b"\r\n")) :]


def render_block(source: Source, note: Note) -> str:
    """Return the block as it stands in a checkout, with LF endings."""
    begin = BEGIN.replace("access", f"access {source.version}")
    newline = "added" if note.newline_added else "kept"
    head = f"{begin}\n# added: {note.blank} blank lines, final newline {newline}\n"
    head += f"# original: {note.original}\n# files: {note.files}\n# block: "
    tail = "\n".join(["", _REMARK, *source.body, END, ""])
    return head + _seal(head + tail) + tail


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
