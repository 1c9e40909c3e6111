"""One grid of cells for all tables that people read; how it is written: as text, as Markdown, as LaTeX, as HTML."""

import shutil
import textwrap
from dataclasses import dataclass, field
from html import escape
from itertools import zip_longest
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple, Union

Note = Union[str, Dict[str, str]]

WIDTH = 100  # columns of a terminal, where nobody says how many there are
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Column:
    """A column; unit: of all its numbers; is_code: it holds names of code.

    spare: 0 for what is always shown; of others the largest is left out first where a terminal is too narrow.
    """

    text: str
    unit: str = ""
    is_text: bool = False
    is_code: bool = False
    spare: int = 0

    @property
    def heading(self) -> str:
        """What stands above it, with its unit."""
        return f"{self.text} ({self.unit})" if self.unit else self.text


class Line(NamedTuple):
    """A row: its cells; below: what stands below them, or in brackets behind; error: what stands in their place."""

    cells: Sequence[str]
    below: Sequence[str] = ()
    error: str = ""

    @property
    def reason(self) -> str:
        """What is said of a row without cells."""
        return f"not counted: {self.error}"


@dataclass
class Grid:
    """All cells as texts; total: the last row, if there is one.

    notes: sentences below it, or by columns what they mean, which is said as long as they are there.
    """

    columns: List[Column]
    lines: List[Line]
    total: Sequence[str] = field(default_factory=list)
    notes: Sequence[Note] = ()

    @property
    def sentences(self) -> List[str]:
        """What is said below it."""
        heads = {column.text for column in self.columns}
        found = []
        for note in self.notes:
            words = note if isinstance(note, str) else "; ".join(note[name] for name in note if name in heads)
            if words:
                found.append(words if isinstance(note, str) else f"{words[0].upper()}{words[1:]}.")
        return found

    def without(self, i: int) -> "Grid":
        """The same without a column."""

        def rest(cells: Sequence[Any]) -> List[Any]:
            return [*cells[:i], *cells[i + 1 :]]

        lines = [Line(rest(line.cells), rest(line.below), line.error) for line in self.lines]
        return Grid(rest(self.columns), lines, rest(self.total), self.notes)


def grid_of(
    columns: Sequence[Tuple[Column, Callable[[Any], str]]],
    rows: Sequence[Any],
    total: Any = None,
    notes: Sequence[Note] = (),
) -> Grid:
    """Make a grid of columns, each with what writes its cell of a row; total: what the last row is made of."""

    def cells(row: Any) -> List[str]:
        return [write(row) for _, write in columns]

    numbers = [write(total) if not column.is_text else "" for column, write in columns] if total is not None else []
    foot = ["total", *numbers[1:]] if numbers else []
    return Grid([column for column, _ in columns], [Line(cells(row)) for row in rows], foot, notes)


def heaviest(weights: Sequence[float], most: int) -> List[int]:
    """Return the places of the largest weights, so many at most, in their order."""
    return sorted(sorted(range(len(weights)), key=lambda i: -weights[i])[:most])


def cut(text: str, longest: int) -> str:
    """Keep the beginning of a text that is too long."""
    return text if len(text) <= longest else text[: longest - 2] + ".."


def cut_left(text: str, longest: int) -> str:
    """Keep the end of a name, which tells it from its neighbours."""
    return text if len(text) <= longest else ".." + text[2 - longest :]


# ---- plain text ----


def terminal_width(usual: int) -> int:
    """Return the columns of the terminal, or those that ``COLUMNS`` names; where there is neither, the usual ones."""
    return shutil.get_terminal_size((usual, 24)).columns


def fitted(text: str) -> str:
    """Break a long line where the terminal ends; where there is none, and nobody names its columns, it stays one."""
    return "\n".join(textwrap.wrap(text, terminal_width(100_000), break_on_hyphens=False, subsequent_indent="  "))


def to_text(grid: Grid, usual: int = WIDTH) -> str:
    """Lay out the grid; columns are left out where it is wider than the terminal, or than the usual columns."""
    width = terminal_width(usual)
    left_out: List[str] = []
    widths, gap = _widths(grid, width)
    while sum(widths) + gap * (len(widths) - 1) > width and any(column.spare for column in grid.columns):
        i = max(range(len(grid.columns)), key=lambda i: grid.columns[i].spare)
        left_out.append(grid.columns[i].text)
        grid = grid.without(i)
        widths, gap = _widths(grid, width)

    def row(cells: Sequence[str]) -> str:
        named = [cut_left(cells[0], _LONGEST_NAME), *cells[1:]]
        padded = [c.ljust(w) if i.is_text else c.rjust(w) for i, c, w in zip(grid.columns, named, widths)]
        return (" " * gap).join(padded).rstrip()

    out = [row(cells) for cells in _heads(grid)]
    rule = "-" * (sum(widths) + gap * (len(widths) - 1))
    out.append(rule)
    for line in grid.lines:
        if line.error:
            first, later = f"{line.cells[0]:<{widths[0]}}  ", " " * (widths[0] + 2)
            out += textwrap.wrap(line.reason, width, initial_indent=first, subsequent_indent=later)
            continue
        out += [row(cells) for cells in (line.cells, line.below) if cells]
    out += [rule, *([row(grid.total)] if grid.total else [])]
    notes = grid.sentences + [f"For want of room without {', '.join(left_out)}."] * bool(left_out)
    return "\n".join([*out, *(part for note in notes for part in textwrap.wrap(note, width, break_on_hyphens=False))])


def _heads(grid: Grid) -> List[List[str]]:
    units = [column.unit for column in grid.columns]
    return [[column.text for column in grid.columns], *([units] if any(units) else [])]


def _widths(grid: Grid, width: int) -> Tuple[List[int], int]:
    """The letters that each column takes, and those between two: one, where there is no room for two."""
    rows = [*_heads(grid), grid.total, *(cells for line in grid.lines for cells in (line.cells, line.below))]
    widths = [max(map(len, cells)) for cells in zip(*filter(None, rows))]
    widths[0] = min(widths[0], _LONGEST_NAME)
    return widths, 2 if sum(widths) + 2 * (len(widths) - 1) <= width else 1


# ---- Markdown ----


def to_markdown(grid: Grid) -> str:
    """Write the grid as GitHub reads it, what stands below a cell in brackets behind it."""
    columns = grid.columns
    rows = [[column.heading for column in columns], ["---" if column.is_text else "---:" for column in columns]]
    for line in grid.lines:
        texts = [_code(c) if i.is_code else escaped(c) if i.is_text else c for i, c in zip(columns, line.cells)]
        if line.below:
            texts = [f"{text} ({more})" if more else text for text, more in zip(texts, line.below)]
        if line.error:
            first = sum(column.is_text for column in columns)
            texts[first:] = [escaped(line.reason), *[""] * (len(texts) - first - 1)]
        rows.append(texts)
    rows += [list(grid.total)] if grid.total else []
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return "\n\n".join([table, *map(escaped, grid.sentences)]).rstrip() + "\n"


def _code(text: str) -> str:
    """A name as code, with its indentation before it."""
    name = text.lstrip()
    quoted = "`{}`".format(name.replace("`", "'").replace("|", "\\|"))
    return "&nbsp;" * (len(text) - len(name)) + quoted if name else ""


def escaped(text: str) -> str:
    """Take the meaning off what Markdown and HTML would read as markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_<>|" else letter for letter in text)


# ---- LaTeX ----


def to_latex(grid: Grid) -> str:
    """Write the grid as a ``tabular`` for the package booktabs, with the notes as comments below it."""
    form = "".join("l" if column.is_text else "r" for column in grid.columns)
    lines = [f"\\begin{{tabular}}{{{form}}}", "\\toprule", _latex_row([column.text for column in grid.columns])]
    lines += [_latex_row([f"({column.unit})" if column.unit else "" for column in grid.columns]), "\\midrule"]
    for line in grid.lines:
        if line.error:
            reason = f"\\multicolumn{{{len(form) - 1}}}{{l}}{{{_latex(line.reason)}}}"
            lines.append(f"{_latex(line.cells[0])} & {reason} \\\\")
            continue
        lines.append(_latex_row(line.cells))
        if line.below:
            lines.append(_latex_row(line.below).replace("-", "$-$"))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {note}" for note in grid.sentences)]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(_latex, cells))} \\\\"


_LATEX = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
    ">": "\\textgreater{}", "|": "\\textbar{}", **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


# ---- HTML, for a notebook, whose own style tables have ----

_STYLE = """<style>
.yolov5-memory-access th, .yolov5-memory-access td { text-align: right; white-space: pre; }
.yolov5-memory-access .text { text-align: left; }
.yolov5-memory-access tfoot { font-weight: bold; }
</style>"""


def to_html(grid: Grid, caption: str) -> str:
    """Lay out a grid with a caption above it and its notes below."""

    def cell(i: int, text: str, tag: str = "td", span: int = 1) -> str:
        kind = ' class="text"' if grid.columns[i].is_text or span > 1 else ""
        wide = f' colspan="{span}"' if span > 1 else ""
        return f"<{tag}{kind}{wide}>{escape(text)}</{tag}>"

    def row(cells: Sequence[str], tag: str = "td") -> str:
        return f"<tr>{''.join(cell(i, text, tag) for i, text in enumerate(cells))}</tr>"

    body = ""
    for line in grid.lines:
        if line.error:
            body += f"<tr>{cell(0, line.cells[0])}{cell(1, line.reason, span=len(grid.columns) - 1)}</tr>"
        else:
            body += row(["\n".join(filter(None, pair)) for pair in zip_longest(line.cells, line.below)])
    head = row([column.heading for column in grid.columns], "th")
    foot = f"<tfoot>{row(grid.total)}</tfoot>" if grid.total else ""
    table = f"<table><thead>{head}</thead><tbody>{body}</tbody>{foot}</table>"
    return html_message(caption, table + "".join(f"<p>{escape(note)}</p>" for note in grid.sentences))


def html_message(text: str, below: str = "") -> str:
    """What is shown where there is no table, or above one."""
    return f'<div class="yolov5-memory-access">{_STYLE}<p>{escape(text)}</p>{below}</div>'
