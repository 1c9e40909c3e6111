"""A grid for a notebook: HTML that carries its own style and needs no script."""

from html import escape
from typing import Sequence

from .grid import Grid, Head, Line

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


def html_table(grid: Grid, caption: str) -> str:
    """Lay out a grid with a caption above it and its notes below."""
    body = "".join(_row(grid.heads, line) for line in grid.lines)
    foot = f"<tfoot><tr>{_total(grid)}</tr></tfoot>" if grid.total else ""
    below = "".join(f"<p>{escape(note)}</p>" for note in grid.notes)
    return (
        f'<div class="{_CLASS}"><style>{_STYLE}</style><p>{escape(caption)}</p><div class="box"><table class="rows">'
        f"<thead>{_head(grid.heads)}</thead><tbody>{body}</tbody>{foot}</table></div>"
        f"{below}</div>"
    )


def _total(grid: Grid) -> str:
    texts = next(i for i, text in enumerate(grid.total) if i and text)  # columns that have no total
    cells = [f'<td class="text" colspan="{texts}">{escape(grid.total[0])}</td>']
    cells += [f"<td{_class(grid.heads, i)}>{escape(grid.total[i])}</td>" for i in range(texts, len(grid.heads))]
    return "".join(cells)


def html_message(text: str) -> str:
    """What is shown where there is no table."""
    return f'<div class="{_CLASS}"><p>{escape(text)}</p></div>'


def _class(heads: Sequence[Head], i: int, bar: bool = False) -> str:
    """The first column of a group keeps its distance from what is before it."""
    begins = bool(heads[i].group) and (i == 0 or heads[i - 1].group != heads[i].group)
    names = ["group"] * begins + ["bar"] * bar
    return ' class="{}"'.format(" ".join(names)) if names else ""


def _head(heads: Sequence[Head]) -> str:
    """Two rows: the groups' names, and below them the columns'."""
    over, below = [], []
    groups = [head.group for head in heads]
    for i, head in enumerate(heads):
        kind = ' class="text"' if head.is_text else _class(heads, i)
        below.append(f"<th{kind}>{escape(f'{head.text} ({head.unit})' if head.unit else head.text)}</th>")
        if not head.group:
            over.append('<th class="text"></th>' if head.is_text else "<th></th>")
        elif groups.index(head.group) == i:
            over.append(f'<th class="over" colspan="{groups.count(head.group)}">{escape(head.group)}</th>')
    return f"<tr>{''.join(over)}</tr><tr>{''.join(below)}</tr>"


def _row(heads: Sequence[Head], line: Line) -> str:
    cells = [
        f'<td class="text" style="padding-left: {7 + 14 * line.level}px" title="{escape(line.title)}">'
        f"{escape(line.cells[0])}{line.mark}</td>"
    ]
    if line.error:
        reason = escape(f"not counted: {line.error}")
        return f'<tr>{cells[0]}<td class="text" colspan="{len(heads) - 1}">{reason}</td></tr>'
    for i, text in list(enumerate(line.cells))[1:]:
        bar = f' style="background-size: {line.bars[i]:.1%} 76%"' if i in line.bars else ""
        kind = ' class="text"' if heads[i].is_text else _class(heads, i, i in line.bars)
        more = f"<br>{escape(line.below[i])}" if line.below and line.below[i] else ""
        cells.append(f"<td{kind}{bar}>{escape(text)}{more}</td>")
    return f'<tr class="{" ".join(line.kinds)}">{"".join(cells)}</tr>' if line.kinds else f"<tr>{''.join(cells)}</tr>"


__all__ = ["html_message", "html_table"]
