"""The style sheet and the script of the report page."""

# Colours of the causes are those of Okabe and Ito, which the colour-blind can tell apart.
STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2330; --soft: #5c6675; --line: #d9dee6; --panel: #f5f7fa;
  --blue: 0, 114, 178; --better: #00764f; --worse: #b3400a;
  --s0: #0072b2; --s1: #d55e00; --s2: #008f68; --s3: #b0588a; --s4: #b58900; --s5: #3d9bd6;
  --inexact: #56b4e9; --wrong_class: #d55e00; --merged: #cc79a7; --split: #d8c520;
  --poor_outline: #e69f00; --missed: #0072b2; --false: #009e73;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181f; --ink: #e4e8ee; --soft: #9aa5b4; --line: #323a46; --panel: #1d232c;
    --blue: 64, 156, 214; --better: #4cc79a; --worse: #f0894f;
    --s0: #4aa8e0; --s1: #f0894f; --s2: #4cc79a; --s3: #d98ebb; --s4: #d9b640; --s5: #8fcdf2;
  }
}
@media print {
  :root {
    color-scheme: light; --paper: #ffffff; --ink: #1c2330; --soft: #5c6675; --line: #d9dee6;
    --panel: #f5f7fa;
  }
  nav { display: none; }
  section, figure, tr { break-inside: avoid; }
  .scroll { overflow: visible; max-height: none; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 0 0 8px; }
h3 { font-size: 16px; margin: 20px 0 6px; }
section { margin-top: 40px; }
p { margin: 4px 0 10px; max-width: 78ch; }
.soft, figcaption, caption { color: var(--soft); }
.warning { border-left: 4px solid var(--s1); background: var(--panel); padding: 8px 12px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 14px; padding: 8px 0;
  border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); }
a { color: var(--s0); text-decoration: none; }
a:hover { text-decoration: underline; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 0; padding: 0;
  list-style: none; }
.cards li { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 16px; min-width: 104px; }
.cards b { display: block; font-size: 26px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: 13px; }
.scroll { overflow: auto; max-height: 640px; margin: 8px 0 16px; width: fit-content;
  max-width: 100%; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums;
  font-size: 14px; }
caption { text-align: left; padding: 6px 10px; font-size: 13px; }
th, td { padding: 3px 10px; text-align: right; white-space: nowrap;
  border-top: 1px solid var(--line); }
tbody th { text-align: left; font-weight: 500; max-width: 320px; overflow: hidden;
  text-overflow: ellipsis; }
td.text { text-align: left; }
thead th { position: sticky; top: 0; background: var(--panel); z-index: 1; }
thead th:first-child { text-align: left; }
thead button { all: unset; cursor: pointer; font-weight: 600; }
thead button:focus-visible { outline: 2px solid var(--s0); outline-offset: 2px; }
thead th[aria-sort=ascending] button::after { content: " \\25B2"; font-size: 10px; }
thead th[aria-sort=descending] button::after { content: " \\25BC"; font-size: 10px; }
.averages th, .averages td { background: var(--panel); font-weight: 600; }
tbody tr:hover td, tbody tr:hover th { background: var(--panel); }
.better { color: var(--better); } .worse { color: var(--worse); }
.bar { display: flex; height: 14px; width: 260px; background: var(--panel); border-radius: 3px;
  overflow: hidden; }
.bar i { display: block; height: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 8px 0;
  list-style: none; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px;
  vertical-align: -1px; }
.matrix td { min-width: 42px; padding: 3px 6px; text-align: center; font-size: 12px; }
.matrix thead th { writing-mode: vertical-rl; text-align: left; padding: 8px 4px; font-weight: 500;
  font-size: 12px; max-height: 150px; }
.matrix tbody th { position: sticky; left: 0; background: var(--paper); max-width: 180px; }
.row { display: flex; flex-wrap: wrap; gap: 12px 32px; align-items: flex-start; }
figure { margin: 12px 0 20px; }
figcaption { font-size: 13px; margin-bottom: 6px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 8px; }
.panels.large { grid-template-columns: repeat(auto-fill, minmax(min(512px, 100%), 1fr)); }
.panels button { all: unset; cursor: zoom-in; min-width: 0; font-size: 12px; color: var(--soft); }
.panels.large button { cursor: zoom-out; }
.panels button:focus-visible { outline: 2px solid var(--s0); }
.panels img { display: block; width: 100%; border-radius: 4px;
  background: var(--panel); }
svg { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; font-family: inherit; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .ideal { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 5 4; fill: none; }
svg .curve { fill: none; stroke-width: 2; }
svg .other { stroke-dasharray: 6 4; }
"""

SCRIPT = """
'use strict';
const valueOf = (row, column) => {
  const cell = row.cells[column];
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  return cell.dataset.text;
};
const compare = (a, b) => (typeof a === 'number' && typeof b === 'number'
  ? a - b : String(a).localeCompare(String(b), undefined, {numeric: true}));
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[table.tBodies.length - 1];
  heads.forEach((head, column) => {
    const button = head.querySelector('button');
    if (!button) return;
    button.addEventListener('click', () => {
      const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
      const known = rows.filter(([value]) => value !== undefined);
      const isText = known.length > 0 && typeof known[0][0] === 'string';
      const order = head.getAttribute('aria-sort')
        ? (head.getAttribute('aria-sort') === 'ascending' ? -1 : 1) : (isText ? 1 : -1);
      for (const other of heads) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', order > 0 ? 'ascending' : 'descending');
      known.sort(([a], [b]) => order * compare(a, b));
      body.append(...known.map(([, row]) => row));
      body.append(...rows.filter(([value]) => value === undefined).map(([, row]) => row));
    });
  });
}
for (const panels of document.querySelectorAll('.panels')) {
  panels.addEventListener('click', () => panels.classList.toggle('large'));
}
"""
