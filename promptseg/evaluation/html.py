"""The little HTML that reports are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c1c1c;background:#fff;max-width:1040px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #ddd}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
table{border-collapse:collapse;margin:.6rem 0;font-size:13.5px}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e4e4e4;vertical-align:top}
td{white-space:nowrap}
th{background:#f5f5f5;font-weight:600}th:first-child,td:first-child{text-align:left}
tr.b td:first-child{font-style:italic}.n{color:#777;font-size:12px}
.charts{display:flex;flex-wrap:wrap;gap:1rem}.wide{overflow-x:auto}
figure{margin:.6rem 0}figcaption{font-size:13px;color:#444}img{max-width:100%;background:#000}
.warn{background:#fff3cd;padding:.6rem .9rem;border-left:4px solid #d39e00}
code,pre{font-size:12.5px;background:#f5f5f5}pre{padding:.6rem;overflow-x:auto}
svg .t{font:600 14px system-ui,sans-serif;text-anchor:middle}svg .x{font:12px system-ui,sans-serif;text-anchor:middle}
svg .y{font:12px system-ui,sans-serif;text-anchor:end}svg .l{font:12px system-ui,sans-serif}
svg .g{stroke:#e6e6e6}svg .d{stroke:#999;stroke-dasharray:4 4}
"""


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "&ndash;" if value is None else f"{value:.{digits}f}"


def estimate(entry: Mapping[str, float | None], digits: int = 3) -> str:
    """A mean with its interval."""
    if entry.get("low") is None:
        return number(entry.get("mean"), digits)
    interval = f"{number(entry['low'], digits)} to {number(entry['high'], digits)}"
    return f'{number(entry["mean"], digits)} <span class="n">{interval}</span>'


def share(value: float | None) -> str:
    """A share in per cent."""
    return "&ndash;" if value is None else f"{100 * value:.1f} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool] = ()) -> str:
    """A table.

    Args:
        head: column titles, plain text.
        rows: cells, HTML.
        marked: rows in italics.
    """
    top = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = []
    for place, row in enumerate(rows):
        kind = ' class="b"' if place < len(marked) and marked[place] else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>")
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def pairs(content: Mapping[str, Any]) -> str:
    """A table of names and values."""
    return table(["", ""], [[escape(str(k)), f"<code>{escape(str(v))}</code>"] for k, v in content.items()])


def page(title: str, body: Sequence[str]) -> str:
    """A whole document that needs no other file."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )
