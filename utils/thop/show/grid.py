"""One grid of cells for all tables that people read, and how it is written: as text, as Markdown, as LaTeX."""

import shutil
import textwrap
from dataclasses import dataclass, field, replace
from typing import Dict, List, Sequence, Tuple

SHORTEST_NAME = 12


@dataclass(frozen=True)
class Head:
    """A column; unit: of all its numbers; group: a heading over several columns; is_code: it holds names of code.

    spare: 0 for what is always shown; of others the largest is left out first where a terminal is too narrow.
    """

    text: str
    unit: str = ""
    group: str = ""
    is_text: bool = False
    is_code: bool = False
    spare: int = 0


@dataclass
class Line:
    """A row: its cells; below: what stands below them, or in brackets behind; mark: behind all of it.

    level: how far its name is indented; error: what stands in place of the cells but the first; kinds: words for what
    it is, for those who can show it; title: what its name is short for; bars: by column, how long a bar stands there.
    """

    cells: List[str]
    below: List[str] = field(default_factory=list)
    mark: str = ""
    level: int = 0
    error: str = ""
    kinds: List[str] = field(default_factory=list)
    title: str = ""
    bars: Dict[int, float] = field(default_factory=dict)


@dataclass
class Grid:
    """All cells as texts; total: the last row, if there is one; notes: sentences below it."""

    heads: List[Head]
    lines: List[Line]
    total: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)


def heaviest(weights: Sequence[float], most: int) -> List[int]:
    """Return the places of the largest weights, so many at most, in their order."""
    return sorted(sorted(range(len(weights)), key=lambda i: -weights[i])[:most])


# ---- plain text ----


def terminal_width(usual: int) -> int:
    """Return the columns of the terminal, or those that ``COLUMNS`` names; where there is neither, the usual ones."""
    return shutil.get_terminal_size((usual, 24)).columns


def fitted(text: str) -> str:
    """Break a long line where the terminal ends; where there is none, and nobody names its columns, it stays one."""
    return "\n".join(textwrap.wrap(text, terminal_width(100_000), break_on_hyphens=False, subsequent_indent="  "))


def to_text(grid: Grid, usual: int) -> str:
    """Lay out the grid in the columns of the terminal, or the usual ones.

    Where it does not fit, names are cut, from the left, and then columns are left out.
    """
    width = terminal_width(usual)
    text, over = _laid_out(grid, width)
    left_out: List[str] = []
    while over and any(head.spare for head in grid.heads):
        i = max(range(len(grid.heads)), key=lambda i: grid.heads[i].spare)
        left_out.append(grid.heads[i].text)
        grid = _without(grid, i)
        note = f"For want of room without {', '.join(left_out)}."
        text, over = _laid_out(replace(grid, notes=[*grid.notes, note]), width)
    return text


def _without(grid: Grid, i: int) -> Grid:
    def rest(cells: List[str]) -> List[str]:
        return [cell for j, cell in enumerate(cells) if j != i]

    heads = [head for j, head in enumerate(grid.heads) if j != i]
    lines = [replace(line, cells=rest(line.cells), below=rest(line.below)) for line in grid.lines]
    return replace(grid, heads=heads, lines=lines, total=rest(grid.total))


def _laid_out(grid: Grid, width: int) -> Tuple[str, bool]:
    """Lay out the grid; say whether it is wider than it should be."""
    shown = [["  " * line.level + line.cells[0], *line.cells[1:]] for line in grid.lines]
    head = [[column.text for column in grid.heads]]
    if any(column.unit for column in grid.heads):
        head.append([column.unit for column in grid.heads])
    below = [line.below for line in grid.lines if line.below]
    layout = _Layout(grid, [*head, *shown, *below, *([grid.total] if grid.total else [])], width)
    out = [*filter(None, [layout.groups()]), *map(layout.line, head), layout.rule]
    for line, texts in zip(grid.lines, shown):
        if line.error:
            out += _reason(layout.name(texts[0]), line.error, width)
            continue
        out.append(layout.line(texts) + line.mark)
        if line.below:
            out.append(layout.line(line.below))
    out.append(layout.rule)
    out += [layout.line(grid.total)] if grid.total else []
    notes = [part for note in grid.notes for part in textwrap.wrap(note, width, break_on_hyphens=False)]
    return "\n".join([*out, *notes]), layout.is_too_wide


class _Layout:
    """Puts cells into columns."""

    def __init__(self, grid: Grid, rows: Sequence[Sequence[str]], width: int) -> None:
        self.heads = grid.heads
        self.widths = [max(map(len, column)) for column in zip(*rows)]
        room = width - max((len(line.mark) for line in grid.lines), default=0)
        self.gap = 2 if sum(self.widths) + 2 * (len(self.widths) - 1) <= room else 1
        spare = room - sum(self.widths[1:]) - self.gap * (len(self.widths) - 1)
        self.widths[0] = min(self.widths[0], max(spare, SHORTEST_NAME))
        self.is_too_wide = sum(self.widths) + self.gap * (len(self.widths) - 1) > room

    @property
    def rule(self) -> str:
        return "-" * (sum(self.widths) + self.gap * (len(self.widths) - 1))

    def name(self, text: str) -> str:
        return cut_left(text, self.widths[0]).ljust(self.widths[0])

    def line(self, cells: Sequence[str]) -> str:
        """Pad the cells of a row, texts on the right and numbers on the left."""
        padded = [self.name(cells[0])]
        for head, cell, width in zip(self.heads[1:], cells[1:], self.widths[1:]):
            padded.append(cell.ljust(width) if head.is_text else cell.rjust(width))
        return (" " * self.gap).join(padded).rstrip()

    def groups(self) -> str:
        """Write each group's name in the middle of a line over its columns."""
        groups = [head.group for head in self.heads]
        line, done = "", 0
        for i, group in enumerate(groups):
            if i >= done:
                done = i + (groups.count(group) if group else 1)
                width = sum(self.widths[i:done]) + self.gap * (done - i - 1)
                line += (f" {group} ".center(width, "-") if group else " " * width) + " " * self.gap
        return line.rstrip()


def _reason(name: str, error: str, width: int) -> List[str]:
    """Say why a model was not counted, all of it: the name of what is missing often comes last."""
    first = f"{name}  "
    later, text = " " * len(first), f"not counted: {error}"
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


def cut(text: str, longest: int) -> str:
    """Keep the beginning of a text that is too long."""
    return text if len(text) <= longest else text[: longest - 2] + ".."


def cut_left(text: str, longest: int) -> str:
    """Keep the indentation's beginning and the end of the name, which tells it from its neighbours."""
    return text if len(text) <= longest else ".." + text[2 - longest :]


# ---- Markdown ----


def to_markdown(grid: Grid) -> str:
    """Write the grid as GitHub reads it, what stands below a cell in brackets behind it."""
    heads = [f"{head.group} {head.text}".strip() + f" ({head.unit})" * bool(head.unit) for head in grid.heads]
    rows = [heads, ["---" if head.is_text else "---:" for head in grid.heads]]
    for line in grid.lines:
        texts = [_code(c) if head.is_code else c for head, c in zip(grid.heads, line.cells)]
        texts = [escaped(c) if head.is_text and not head.is_code else c for head, c in zip(grid.heads, texts)]
        texts[0] = "&nbsp;&nbsp;&nbsp;" * line.level + texts[0] + escaped(line.mark)
        if line.below:
            texts = [f"{text} ({more})" if more else text for text, more in zip(texts, line.below)]
        if line.error:
            first = sum(head.is_text for head in grid.heads)
            texts[first:] = [f"not counted: {escaped(line.error)}", *[""] * (len(texts) - first - 1)]
        rows.append(texts)
    rows += [grid.total] if grid.total else []
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return "\n\n".join([table, *map(escaped, grid.notes)]).rstrip() + "\n"


def _code(text: str) -> str:
    return "`{}`".format(text.replace("`", "'").replace("|", "\\|")) if text else ""


def escaped(text: str) -> str:
    """Take the meaning off what Markdown and HTML would read as markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_<>|" else letter for letter in text)


# ---- LaTeX ----


def to_latex(grid: Grid) -> str:
    """Write the grid as a ``tabular`` for the package booktabs, with the notes as comments below it."""
    form = "".join("l" if head.is_text else "r" for head in grid.heads)
    lines = [f"\\begin{{tabular}}{{{form}}}", "\\toprule", _latex_row([head.text for head in grid.heads])]
    lines += [_latex_row([f"({head.unit})" if head.unit else "" for head in grid.heads]), "\\midrule"]
    for line in grid.lines:
        if line.error:
            reason = f"\\multicolumn{{{len(form) - 1}}}{{l}}{{{_latex(f'not counted: {line.error}')}}}"
            lines.append(f"{_latex(line.cells[0])} & {reason} \\\\")
            continue
        lines.append(_latex_row(line.cells))
        if line.below:
            lines.append(_latex_row(line.below).replace("-", "$-$"))
    lines += ["\\midrule", _latex_row(grid.total)] if grid.total else []
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {note}" for note in grid.notes)]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(_latex, cells))} \\\\"


_LATEX = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
    ">": "\\textgreater{}", "|": "\\textbar{}", **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


__all__ = [
    "Grid", "Head", "Line", "cut", "cut_left", "escaped", "fitted", "heaviest", "to_latex", "to_markdown", "to_text",
]  # fmt: skip
