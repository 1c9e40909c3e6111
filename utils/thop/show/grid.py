"""One grid of cells for all tables that people read; how it is written: as text, as Markdown, as LaTeX, as HTML."""

import shutil
import textwrap
from dataclasses import dataclass, field, replace
from html import escape
from typing import Dict, List, Sequence, Tuple, TypeVar, Union

T = TypeVar("T")
Note = Union[str, Dict[str, str]]

WIDTH = 100  # columns of a terminal, where nobody says how many there are
_SHORTEST_NAME = 12


@dataclass(frozen=True)
class Column:
    """A column; unit: of all its numbers; group: a heading over several columns; is_code: it holds names of code.

    spare: 0 for what is always shown; of others the largest is left out first where a terminal is too narrow. is_whole:
    as the first column it is never cut, as somebody will type what it holds.
    """

    text: str
    unit: str = ""
    group: str = ""
    is_text: bool = False
    is_code: bool = False
    spare: int = 0
    is_whole: bool = False

    @property
    def heading(self) -> str:
        """What stands above it, with its unit."""
        return f"{self.text} ({self.unit})" if self.unit else self.text


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
    """All cells as texts; total: the last row, if there is one; bare: without lines.

    notes: sentences below it, or by columns what they mean, which is said as long as they are there.
    """

    columns: List[Column]
    lines: List[Line]
    total: List[str] = field(default_factory=list)
    notes: Sequence[Note] = ()
    bare: bool = False

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


def to_text(grid: Grid, usual: int = WIDTH) -> str:
    """Lay out the grid in the columns of the terminal, or the usual ones.

    Where it does not fit, names are cut, from the left, and then columns are left out.
    """
    width = terminal_width(usual)
    text, over = _laid_out(grid, width)
    left_out: List[str] = []
    while over and any(column.spare for column in grid.columns):
        i = max(range(len(grid.columns)), key=lambda i: grid.columns[i].spare)
        left_out.append(grid.columns[i].text)
        grid = _without(grid, i)
        note = f"For want of room without {', '.join(left_out)}."
        text, over = _laid_out(replace(grid, notes=[*grid.notes, note]), width)
    return text


def _without(grid: Grid, i: int) -> Grid:
    def rest(cells: Sequence[T]) -> List[T]:
        return [cell for j, cell in enumerate(cells) if j != i]

    lines = [replace(line, cells=rest(line.cells), below=rest(line.below)) for line in grid.lines]
    return replace(grid, columns=rest(grid.columns), lines=lines, total=rest(grid.total))


def _laid_out(grid: Grid, width: int) -> Tuple[str, bool]:
    """Lay out the grid; say whether it is wider than it should be."""
    columns, units = grid.columns, [column.unit for column in grid.columns]
    heads = [[column.text for column in columns], *([units] if any(units) else [])]
    shown = [["  " * line.level + line.cells[0], *line.cells[1:]] for line in grid.lines]
    below, foot = [line.below for line in grid.lines if line.below], [grid.total] if grid.total else []
    widths = [max(map(len, cells)) for cells in zip(*heads, *shown, *below, *foot)]
    room = width - max((len(line.mark) for line in grid.lines), default=0)
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= room else 1
    gaps = gap * (len(widths) - 1)
    if not columns[0].is_whole:
        widths[0] = min(widths[0], max(room - sum(widths[1:]) - gaps, _SHORTEST_NAME))

    def row(cells: Sequence[str]) -> str:
        """Pad the cells, texts on the right and numbers on the left."""
        named = [cut_left(cells[0], widths[0]), *cells[1:]]
        padded = [c.ljust(w) if i.is_text else c.rjust(w) for i, c, w in zip(columns, named, widths)]
        return (" " * gap).join(padded).rstrip()

    rule = [] if grid.bare else ["-" * (sum(widths) + gaps)]
    out = [*_groups(columns, widths, gap), *map(row, heads), *rule]
    for line, texts in zip(grid.lines, shown):
        if line.error:
            out += _reason(cut_left(texts[0], widths[0]).ljust(widths[0]), _not_counted(line), width)
        else:
            out += [row(texts) + line.mark, *([row(line.below)] if line.below else [])]
    notes = [part for note in grid.sentences for part in textwrap.wrap(note, width, break_on_hyphens=False)]
    return "\n".join([*out, *rule, *map(row, foot), *notes]), sum(widths) + gaps > room


def _groups(columns: Sequence[Column], widths: Sequence[int], gap: int) -> List[str]:
    """Write each group's name in the middle of a line over its columns; no line without groups."""
    groups = [column.group for column in columns]
    line, done = "", 0
    for i, group in enumerate(groups):
        if i >= done:
            done = i + (groups.count(group) if group else 1)
            width = sum(widths[i:done]) + gap * (done - i - 1)
            line += (f" {group} ".center(width, "-") if group else " " * width) + " " * gap
    return [line.rstrip()] if line.strip() else []


def _reason(name: str, error: str, width: int) -> List[str]:
    """Say why a model was not counted, all of it: the name of what is missing often comes last."""
    first, later = f"{name}  ", " " * (len(name) + 2)
    return textwrap.wrap(error, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


def _not_counted(line: Line) -> str:
    return f"not counted: {line.error}"


def cut(text: str, longest: int) -> str:
    """Keep the beginning of a text that is too long."""
    return text if len(text) <= longest else text[: longest - 2] + ".."


def cut_left(text: str, longest: int) -> str:
    """Keep the indentation's beginning and the end of the name, which tells it from its neighbours."""
    return text if len(text) <= longest else ".." + text[2 - longest :]


# ---- Markdown ----


def to_markdown(grid: Grid) -> str:
    """Write the grid as GitHub reads it, what stands below a cell in brackets behind it."""
    columns = grid.columns
    heads = [f"{column.group} {column.heading}".strip() for column in columns]
    rows = [heads, ["---" if column.is_text else "---:" for column in columns]]
    for line in grid.lines:
        texts = [_code(c) if i.is_code else escaped(c) if i.is_text else c for i, c in zip(columns, line.cells)]
        texts[0] = "&nbsp;&nbsp;&nbsp;" * line.level + texts[0] + escaped(line.mark)
        if line.below:
            texts = [f"{text} ({more})" if more else text for text, more in zip(texts, line.below)]
        if line.error:
            first = sum(column.is_text for column in columns)
            texts[first:] = [escaped(_not_counted(line)), *[""] * (len(texts) - first - 1)]
        rows.append(texts)
    rows += [grid.total] if grid.total else []
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return "\n\n".join([table, *map(escaped, grid.sentences)]).rstrip() + "\n"


def _code(text: str) -> str:
    return "`{}`".format(text.replace("`", "'").replace("|", "\\|")) if text else ""


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
            reason = f"\\multicolumn{{{len(form) - 1}}}{{l}}{{{_latex(_not_counted(line))}}}"
            lines.append(f"{_latex(line.cells[0])} & {reason} \\\\")
            continue
        lines.append(_latex_row(line.cells))
        if line.below:
            lines.append(_latex_row(line.below).replace("-", "$-$"))
    lines += ["\\midrule", _latex_row(grid.total)] if grid.total else []
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {note}" for note in grid.sentences)]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(_latex, cells))} \\\\"


_LATEX = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
    ">": "\\textgreater{}", "|": "\\textbar{}", **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


# ---- HTML, for a notebook: it carries its own style and needs no script ----

_CLASS = "yolov5-memory-access"
# Text and background come from one source, so that they always fit each other: the notebook's theme if it names its
# colours (Jupyter, VS Code), else the browser's own pair. All else is a tint, which suits light and dark.
_STYLE = """
.C { max-width: 100%; color: var(--jp-ui-font-color0, var(--vscode-editor-foreground, CanvasText));
  font: 12px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
.C, .C .box, .C table.rows thead th, .C table.rows tfoot td {
  background: var(--jp-layout-color0, var(--vscode-editor-background, Canvas)); }
.C .box { display: inline-block; box-sizing: border-box; max-width: 100%; max-height: 36em; overflow: auto;
  border: 1px solid rgba(128, 128, 128, .4); border-radius: 4px; }
.C table.rows { border-collapse: separate; border-spacing: 0; margin: 0; font-size: 12px; color: inherit;
  font-variant-numeric: tabular-nums; }
.C table.rows th, .C table.rows td { padding: 2px 7px; border: 0; text-align: right; white-space: nowrap;
  color: inherit; }
.C table.rows .text { text-align: left; }
.C table.rows .group { padding-left: 16px; }
.C table.rows thead { position: sticky; top: 0; z-index: 1; }
.C table.rows thead th { font-weight: 600; }
.C table.rows thead th.over { text-align: center; border-bottom: 1px solid rgba(128, 128, 128, .5); }
.C table.rows thead tr:last-child th { border-bottom: 1px solid rgba(128, 128, 128, .8); }
.C table.rows tbody tr { background: none; }
.C table.rows tbody tr:hover td { background-color: rgba(128, 128, 128, .18); }
.C table.rows tbody tr.sum td { font-weight: 600; border-top: 1px solid rgba(128, 128, 128, .25); }
.C table.rows tbody tr.itself td.text { font-style: italic; }
.C table.rows tbody tr.marked td { background-color: rgba(230, 140, 20, .22); }
.C table.rows td.bar { min-width: 60px; background-repeat: no-repeat; background-position: left center;
  background-image: linear-gradient(rgba(40, 120, 220, .3), rgba(40, 120, 220, .3)); background-size: 0 76%; }
.C table.rows tfoot { position: sticky; bottom: 0; }
.C table.rows tfoot td { font-weight: 600; border-top: 1px solid rgba(128, 128, 128, .8); }
.C p { margin: 6px 0; max-width: 80em; color: inherit; }
""".replace(".C", f".{_CLASS}")


def to_html(grid: Grid, caption: str) -> str:
    """Lay out a grid with a caption above it and its notes below."""
    body = "".join(_row(grid.columns, line) for line in grid.lines)
    foot = f"<tfoot><tr>{_total(grid)}</tr></tfoot>" if grid.total else ""
    below = "".join(f"<p>{escape(note)}</p>" for note in grid.sentences)
    return (
        f'<div class="{_CLASS}"><style>{_STYLE}</style><p>{escape(caption)}</p><div class="box"><table class="rows">'
        f"<thead>{_head(grid.columns)}</thead><tbody>{body}</tbody>{foot}</table></div>"
        f"{below}</div>"
    )


def _total(grid: Grid) -> str:
    texts = next(i for i, text in enumerate(grid.total) if i and text)  # columns that have no total
    cells = [f'<td class="text" colspan="{texts}">{escape(grid.total[0])}</td>']
    cells += [f"<td{_class(grid.columns, i)}>{escape(grid.total[i])}</td>" for i in range(texts, len(grid.columns))]
    return "".join(cells)


def html_message(text: str) -> str:
    """What is shown where there is no table."""
    return f'<div class="{_CLASS}"><p>{escape(text)}</p></div>'


def _class(columns: Sequence[Column], i: int, bar: bool = False) -> str:
    """The first column of a group keeps its distance from what is before it."""
    begins = bool(columns[i].group) and (i == 0 or columns[i - 1].group != columns[i].group)
    names = ["group"] * begins + ["bar"] * bar
    return ' class="{}"'.format(" ".join(names)) if names else ""


def _head(columns: Sequence[Column]) -> str:
    """Two rows: the groups' names, and below them the columns'."""
    over, below = [], []
    groups = [head.group for head in columns]
    for i, head in enumerate(columns):
        kind = ' class="text"' if head.is_text else _class(columns, i)
        below.append(f"<th{kind}>{escape(head.heading)}</th>")
        if not head.group:
            over.append('<th class="text"></th>' if head.is_text else "<th></th>")
        elif groups.index(head.group) == i:
            over.append(f'<th class="over" colspan="{groups.count(head.group)}">{escape(head.group)}</th>')
    return f"<tr>{''.join(over)}</tr><tr>{''.join(below)}</tr>"


def _row(columns: Sequence[Column], line: Line) -> str:
    cells = [
        f'<td class="text" style="padding-left: {7 + 14 * line.level}px" title="{escape(line.title)}">'
        f"{escape(line.cells[0])}{line.mark}</td>"
    ]
    if line.error:
        reason = escape(_not_counted(line))
        return f'<tr>{cells[0]}<td class="text" colspan="{len(columns) - 1}">{reason}</td></tr>'
    for i, text in list(enumerate(line.cells))[1:]:
        bar = f' style="background-size: {line.bars[i]:.1%} 76%"' if i in line.bars else ""
        kind = ' class="text"' if columns[i].is_text else _class(columns, i, i in line.bars)
        more = f"<br>{escape(line.below[i])}" if line.below and line.below[i] else ""
        cells.append(f"<td{kind}{bar}>{escape(text)}{more}</td>")
    return f'<tr class="{" ".join(line.kinds)}">{"".join(cells)}</tr>' if line.kinds else f"<tr>{''.join(cells)}</tr>"
