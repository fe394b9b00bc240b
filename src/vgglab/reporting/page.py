"""The frame of a page that stands alone: no network, no script, light and dark."""

from collections.abc import Mapping
from html import escape

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #fff; --text: #1c2330; --soft: #5d6778; --rule: #e1e5eb;
  --c0: #2f6fde; --c1: #d9730d; --c2: #0f8a5f; --c3: #8a4fd0; --warn: #a15c00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151b; --card: #1b2029; --text: #e4e8ef; --soft: #98a2b3; --rule: #303846;
    --c0: #6ea0ff; --c1: #f2a254; --c2: #4fc99a; --c3: #bd93f0; --warn: #f2b45c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1180px; padding: 28px 20px 48px;
  background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { margin: 0; font-size: 26px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 17px; }
header p { margin: 4px 0 20px; color: var(--soft); overflow-wrap: anywhere; }
section {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 18px 20px; margin-bottom: 16px;
}
.note { margin: 0 0 12px; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.warn { color: var(--warn); }
.tiles { display: flex; flex-wrap: wrap; gap: 12px 40px; }
.tiles div { font-size: 13px; color: var(--soft); }
.tiles b { display: block; font-size: 28px; line-height: 1.25; color: var(--text); }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 20px 28px; }
figure { margin: 0; min-width: 0; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 16px;
  font-weight: 600; font-size: 14px; margin-bottom: 4px; }
figcaption > span { display: flex; flex-wrap: wrap; gap: 0 14px; font-weight: 400; }
.key { font-size: 13px; color: var(--soft); }
.key b { color: var(--text); font-weight: 600; }
.key::before { content: ""; display: inline-block; width: 14px; height: 3px; border-radius: 2px;
  margin-right: 6px; vertical-align: middle; background: var(--line); }
.c0 { --line: var(--c0); } .c1 { --line: var(--c1); }
.c2 { --line: var(--c2); } .c3 { --line: var(--c3); }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--rule); }
svg .line { fill: none; stroke: var(--line); stroke-width: 2; stroke-linejoin: round; }
svg circle { fill: var(--line); }
.sides { display: flex; flex-wrap: wrap; gap: 20px 36px; align-items: flex-start; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 13px; }
th { font-weight: 400; text-align: left; }
thead th { color: var(--soft); }
caption { text-align: left; color: var(--soft); padding-bottom: 4px; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
table.confusion td { min-width: 30px; height: 26px; padding: 0 3px; text-align: center;
  font-variant-numeric: tabular-nums;
  background: color-mix(in srgb, var(--c0) calc(var(--share, 0) * 100%), transparent); }
table.confusion tbody td { border: 1px solid var(--rule); }
table.confusion .dark { color: var(--card); }
table.confusion thead th { vertical-align: bottom; padding: 0 0 6px; text-align: center; }
table.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg); }
table.confusion tbody th { padding-right: 8px; text-align: right; white-space: nowrap; }
img.confusion { width: min(100%, 460px); image-rendering: pixelated;
  border: 1px solid var(--rule); }
table.classes th, table.classes td { padding: 2px 14px 2px 0; white-space: nowrap; }
.bar { width: 110px; height: 8px; border-radius: 4px;
  background: linear-gradient(to right, var(--c0) calc(var(--share) * 100%), var(--rule) 0); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 20px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { margin: 0 0 8px; padding: 12px 14px; background: var(--page); border-radius: 6px;
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; font-size: 17px; font-weight: 700; }
summary + pre { margin-top: 12px; }
"""


def page(title: str, subtitle: str, body: str) -> str:
    """A whole HTML document; `body` is HTML, the other two are plain text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n"
        f"{body}\n</body>\n</html>\n"
    )


def section(heading: str, body: str) -> str:
    """A card; the empty string where `body` (HTML) is empty."""
    return f"<section><h2>{escape(heading)}</h2>{body}</section>\n" if body else ""


def tiles(numbers: Mapping[str, str]) -> str:
    """Large numbers in a row, each over its plain-text label."""
    cells = (f"<div><b>{escape(v)}</b>{escape(k)}</div>" for k, v in numbers.items())
    return f'<div class="tiles">{"".join(cells)}</div>'


def facts(pairs: Mapping[str, str]) -> str:
    """Plain-text terms and what they are."""
    rows = (f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs.items())
    return f"<dl>{''.join(rows)}</dl>"


def code(text: str) -> str:
    """Plain text as it stands, to be copied."""
    return f"<pre>{escape(text)}</pre>"


def note(text: str, warn: bool = False) -> str:
    """A plain-text remark."""
    return f'<p class="note{" warn" if warn else ""}">{escape(text)}</p>'
