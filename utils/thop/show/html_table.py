"""The table of modules for a notebook: HTML that carries its own style and needs no script."""

from html import escape
from typing import Callable, List, Sequence

from .table import Column, View, columns

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


def html_table(view: View, caption: str, remarks: Sequence[str]) -> str:
    """Lay out the table with a caption above it and the remarks below."""
    shown = columns(view)
    body = "".join(_body(view, shown))
    total = ['<td class="text" colspan="3">total</td>']
    total += [
        f"<td{_class(shown, i)}>{escape(column.cell(view.total, view.total))}</td>" for i, column in enumerate(shown)
    ]
    below = "".join(f"<p>{escape(remark)}</p>" for remark in remarks)
    return (
        f'<div class="{_CLASS}"><style>{_STYLE}</style><p>{escape(caption)}</p><div class="box"><table class="rows">'
        f"<thead>{_head(shown)}</thead><tbody>{body}</tbody><tfoot><tr>{''.join(total)}</tr></tfoot></table></div>"
        f"{below}</div>"
    )


def html_message(text: str) -> str:
    """What is shown where there is no table."""
    return f'<div class="{_CLASS}"><p>{escape(text)}</p></div>'


def _class(shown: Sequence[Column], i: int, bar: bool = False) -> str:
    """The first column of a group keeps its distance from what is before it."""
    begins = bool(shown[i].group) and (i == 0 or shown[i - 1].group != shown[i].group)
    names = ["group"] * begins + ["bar"] * bar
    return ' class="{}"'.format(" ".join(names)) if names else ""


def _head(shown: Sequence[Column]) -> str:
    """Two rows: the groups' names, and below them the columns'."""
    over, below = [], []
    for text in ("module", "type"):
        over.append('<th class="text"></th>')
        below.append(f'<th class="text">{text}</th>')
    over.append("<th></th>")
    below.append("<th>output shape</th>")
    groups = [column.group for column in shown]
    for i, column in enumerate(shown):
        below.append(f"<th{_class(shown, i)}>{escape(column.heading)}</th>")
        if not column.group:
            over.append("<th></th>")
        elif groups.index(column.group) == i:
            over.append(f'<th class="over" colspan="{groups.count(column.group)}">{escape(column.group)}</th>')
    return f"<tr>{''.join(over)}</tr><tr>{''.join(below)}</tr>"


def _body(view: View, shown: Sequence[Column]) -> List[str]:
    marked = view.marked()
    bars = [_bar(view, column) for column in shown]
    lines = []
    for row in view.rows:
        mark = any(row is m for m in marked)
        kinds = ["sum"] * row.is_sum + ["itself"] * row.itself + ["marked"] * mark
        indentation = 7 if view.flat else 7 + 14 * row.level
        cells = [
            f'<td class="text" style="padding-left: {indentation}px" title="{escape(row.path)}">'
            f"{escape(view.name(row))}{' *' * mark}</td>",
            f'<td class="text">{escape(view.type(row))}</td>',
            f"<td>{escape(view.shape(row))}</td>",
        ]
        for i, (column, bar) in enumerate(zip(shown, bars)):
            text = escape(column.cell(row.numbers, view.total))
            cells.append(f"<td{_class(shown, i, column.share is not None)}{bar(row.numbers)}>{text}</td>")
        lines.append(f'<tr class="{" ".join(kinds)}">{"".join(cells)}</tr>' if kinds else f"<tr>{''.join(cells)}</tr>")
    return lines


def _bar(view: View, column: Column) -> Callable[..., str]:
    """Return what draws a share as a bar in its cell; the largest share of all rows fills it."""
    share = column.share
    if share is None:
        return lambda numbers: ""
    largest = max((share(row.numbers, view.total) for row in view.rows), default=0.0) or 1.0
    return lambda numbers: f' style="background-size: {share(numbers, view.total) / largest:.1%} 76%"'
