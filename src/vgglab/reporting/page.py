"""The frame of a page that stands alone: no network, no script, light and dark."""

from collections.abc import Mapping
from html import escape
from typing import Literal

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f5f8; --card: #fff; --text: #1a2130; --soft: #5b6577; --rule: #e0e4eb;
  --c0: #2f6fde; --c1: #d9730d; --c2: #0f8a5f; --c3: #8a4fd0;
  --c4: #cf3a5e; --c5: #0a8494; --c6: #94691f; --c7: #687182;
  --good: #0f7a50; --warn: #9a5800; --bad: #c02a40;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #11141a; --card: #1a1f28; --text: #e5e9f0; --soft: #9aa4b5; --rule: #303846;
    --c0: #6ea0ff; --c1: #f2a254; --c2: #4fc99a; --c3: #bd93f0;
    --c4: #f47f9b; --c5: #4cc3d2; --c6: #d3a95c; --c7: #a0a9b8;
    --good: #56cf9c; --warn: #f2b45c; --bad: #ff8593;
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
header p { margin: 4px 0 18px; color: var(--soft); overflow-wrap: anywhere; }
section {
  background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 18px 20px; margin-bottom: 16px;
}
.note { margin: 0 0 12px; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.warn { color: var(--warn); }
section > :last-child { margin-bottom: 0; }
.good { --tone: var(--good); } .paused { --tone: var(--warn); } .bad { --tone: var(--bad); }
.banner { border-left: 5px solid var(--tone); padding: 14px 20px; }
.banner h2 { margin: 0; color: var(--tone); }
.banner p { margin: 6px 0 0; }
.banner pre { margin: 8px 0 0; }
.tiles { display: flex; flex-wrap: wrap; gap: 14px 44px; }
.tiles div { font-size: 13px; color: var(--soft); }
.tiles b { display: block; font-size: 27px; line-height: 1.25; color: var(--text);
  font-variant-numeric: tabular-nums; }
.grid2, .grid3 { display: grid; gap: 20px 28px; }
.grid2 { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.grid3 { grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.grid3 + .tiles, .grid3 + dl { margin-top: 18px; }
figure { margin: 0; min-width: 0; container-type: inline-size; }
figcaption { font-weight: 600; font-size: 14px; margin-bottom: 4px; }
figcaption > span { display: flex; flex-wrap: wrap; gap: 0 14px; font-weight: 400; }
.key { font-size: 13px; color: var(--soft); overflow-wrap: anywhere; }
.key b { color: var(--text); font-weight: 600; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: 16px; margin-right: 6px;
  vertical-align: middle; border-top: 3px solid var(--line); }
.key.dashed::before { border-top-style: dashed; }
.c0 { --line: var(--c0); } .c1 { --line: var(--c1); } .c2 { --line: var(--c2); }
.c3 { --line: var(--c3); } .c4 { --line: var(--c4); } .c5 { --line: var(--c5); }
.c6 { --line: var(--c6); } .c7 { --line: var(--c7); }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--rule); }
svg .line { fill: none; stroke: var(--line); stroke-width: 2; stroke-linejoin: round; }
svg .dashed { stroke-dasharray: 6 4; }
svg .faint { stroke-width: 1; opacity: 0.4; }
svg circle { fill: var(--line); }
.strip { fill: transparent; }
.at > g { visibility: hidden; pointer-events: none; }
.at:hover > g { visibility: visible; }
.cross { stroke: var(--soft); stroke-dasharray: 2 3; }
.box { fill: var(--card); stroke: var(--rule); opacity: 0.94; }
.at text { fill: var(--text); }
@container (max-width: 430px) {
  svg text { font-size: 16px; }
  .at { display: none; }
}
.sides { display: flex; flex-wrap: wrap; gap: 20px 36px; align-items: flex-start; }
.sides > * { min-width: 0; }
.sides > img { flex: 0 1 420px; }
.sides > .rest { flex: 1 1 480px; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 13px; }
th { font-weight: 400; text-align: left; }
thead th { color: var(--soft); }
caption { text-align: left; color: var(--soft); padding-bottom: 4px; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
table.confusion td { min-width: 32px; height: 28px; padding: 0 4px; text-align: center;
  font-variant-numeric: tabular-nums;
  background: color-mix(in srgb, var(--c0) calc(var(--share, 0) * 100%), transparent); }
table.confusion tbody td { border: 1px solid var(--rule); }
table.confusion .dark { color: var(--card); }
table.confusion thead th { vertical-align: bottom; padding: 0 0 6px; text-align: center; }
table.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg);
  max-height: 130px; overflow: hidden; white-space: nowrap; }
table.confusion .level { writing-mode: initial; transform: none; }
table.confusion tbody th { padding-right: 8px; text-align: right; white-space: nowrap;
  max-width: 170px; overflow: hidden; text-overflow: ellipsis; }
img.confusion { width: min(100%, 420px); image-rendering: pixelated;
  border: 1px solid var(--rule); }
table.plain th, table.plain td { padding: 3px 16px 3px 0; }
table.plain tbody tr { border-top: 1px solid var(--rule); }
table.plain .name { min-width: 120px; max-width: 260px; overflow-wrap: anywhere; }
.bar { width: 110px; height: 8px; border-radius: 4px;
  background: linear-gradient(to right, var(--c0) calc(var(--share) * 100%), var(--rule) 0); }
.mistakes { display: grid; gap: 14px 12px;
  grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); }
.mistake img { display: block; width: 100%; border-radius: 6px; image-rendering: pixelated; }
.mistake figcaption { margin: 5px 0 0; font-size: 12px; line-height: 1.35;
  overflow-wrap: anywhere; }
.mistake span, .mistake small { display: block; font-weight: 400; }
.mistake small { color: var(--soft); font-size: 11px; }
.wrong { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 20px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { margin: 0 0 8px; padding: 12px 14px; background: var(--page); border-radius: 6px;
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; font-size: 17px; font-weight: 700; }
summary + * { margin-top: 12px; }
@media (max-width: 600px) {
  body { padding: 16px 10px 32px; }
  section { padding: 14px 14px; }
  h1 { font-size: 22px; }
  .tiles { gap: 12px 28px; }
  .tiles b { font-size: 23px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; }
  .mistakes { grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)); }
  table.confusion td { min-width: 28px; padding: 0 1px; font-size: 12px; }
  table.plain th, table.plain td { padding-right: 10px; }
  table.plain .name { min-width: 72px; }
  .bar { width: 40px; }
}
@media print {
  @page { margin: 14mm; }
  :root { --page: #fff; color-scheme: light; }
  * { print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  section { border: 0; border-radius: 0; border-top: 1px solid var(--rule); padding: 10px 0;
    margin: 0; }
  .banner { border-left: 5px solid var(--tone); padding: 6px 12px; }
  pre { border: 1px solid var(--rule); }
  h2 { break-after: avoid; }
  figure, tr, .tiles, dl, .banner, img { break-inside: avoid; }
  .grid2 { grid-template-columns: 1fr 1fr; }
  .grid3 { grid-template-columns: 1fr 1fr; }
  .mistakes { grid-template-columns: repeat(6, 1fr); }
  .scroll { overflow: visible; }
  section:has(> details:not([open])) { display: none; }
}
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


def details(heading: str, body: str) -> str:
    """A card whose `body` (HTML) is shown on demand; the empty string where there is none."""
    if not body:
        return ""
    return f"<section><details><summary>{escape(heading)}</summary>{body}</details></section>\n"


def banner(tone: Literal["good", "paused", "bad"], heading: str, body: str) -> str:
    """How it stands, at the top: a plain-text heading in the tone's colour over `body` (HTML)."""
    return f'<section class="banner {tone}"><h2>{escape(heading)}</h2>{body}</section>\n'


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
