"""The report's page: its frame, its tables and its look. No network, no server: everything is in the one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from training.state.json_files import write_text

CONFIG = {"displayModeBar": False, "responsive": True}
# Figures are drawn while the page is read, before they know their neighbours; at the end each takes its own width.
FIT = "for (const plot of document.querySelectorAll('.plotly-graph-div')) Plotly.Plots.resize(plot);"


@dataclass(frozen=True)
class Html:
    """Text that is HTML already; everything else is escaped where it is put in."""

    text: str


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        key: its anchor.
        title: its heading.
        body: what it shows.
    """

    key: str
    title: str
    body: Html


def html(value: Any) -> str:
    """A value as HTML: numbers with separators, names escaped."""
    if isinstance(value, Html):
        return value.text
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(str(value))


def join(*parts: Html | str) -> Html:
    return Html("\n".join(html(part) for part in parts))


def tag(name: str, content: Html | str, classes: str = "") -> Html:
    attribute = f' class="{classes}"' if classes else ""
    return Html(f"<{name}{attribute}>{html(content)}</{name}>")


def paragraph(text: Html | str, classes: str = "") -> Html:
    return tag("p", text, classes)


def absent(what: str, job: str) -> Html:
    """What a section says when its input is not there."""
    return paragraph(
        join(f"{what} Run ", tag("code", f"millrace {job}"), " and this report again to see it."), "absent"
    )


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, marked: int | None = None, caption: str = ""
) -> Html:
    """A table; columns of numbers stand right.

    Args:
        columns: headings.
        rows: cells.
        marked: number of the row that stands out.
        caption: one sentence on how to read it.
    """
    right = [any(isinstance(row[at], int | float | Html) for row in rows) for at in range(len(columns))]
    side = [" class=right" if value else "" for value in right]
    head = "".join(f"<th{side[at]} scope=col>{html(column)}</th>" for at, column in enumerate(columns))
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td{side[at]}>{html(cell)}</td>" for at, cell in enumerate(row))
        lines.append(f"<tr class=marked>{cells}</tr>" if number == marked else f"<tr>{cells}</tr>")
    body = f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    return Html(f"<figure>{body}<figcaption>{html(caption)}</figcaption></figure>" if caption else body)


def plot(figure: go.Figure, caption: str, *, key: str, title: str = "") -> Html:
    """A figure with one sentence that says how to read it; none where the section has said it of all of them."""
    body = figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG, div_id=f"plot-{key}")
    heading = f"<h3>{html(title)}</h3>" if title else ""
    below = f"<figcaption>{html(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{heading}{body}{below}</figure>")


def grid(*parts: Html) -> Html:
    """Parts side by side, one below the other where the page is narrow."""
    return Html(f"<div class=grid>{''.join(part.text for part in parts)}</div>")


def tiles(facts: Sequence[tuple[str, str, str]]) -> Html:
    """(figure, what it is, small print) as large figures side by side."""
    cells = [
        f"<div class=tile><b>{html(value)}</b><span>{html(what)}</span><small>{html(note)}</small></div>"
        for value, what, note in facts
    ]
    return Html(f"<div class=tiles>{''.join(cells)}</div>")


def facts(pairs: Sequence[tuple[str, Any]]) -> Html:
    """Names and values of what the page is about."""
    rows = "".join(f"<div><dt>{html(name)}</dt><dd>{html(value)}</dd></div>" for name, value in pairs)
    return Html(f"<dl>{rows}</dl>")


def page(title: str, head: Html, sections: Sequence[Section], foot: str) -> str:
    """The whole file."""
    links = "".join(f'<a href="#{section.key}">{html(section.title)}</a>' for section in sections)
    parts = "".join(
        f'<section id="{section.key}"><h2>{html(section.title)}</h2>{section.body.text}</section>'
        for section in sections
    )
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{html(title)}</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1"><link rel=icon href="data:,">'
        f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>"
        f"<header>{head.text}</header><nav>{links}</nav><main>{parts}</main><footer>{html(foot)}</footer><script>{FIT}</script></body></html>\n"
    )


def planner_page(path: Path, title: str, head: Html, sections: Sequence[Section], command: str) -> str:
    """Write the page of a plan, which a command made; returns its path."""
    foot = f"Made by millrace {command}; the page needs neither a server nor a network."
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(title, head, sections, foot))
    return str(path)


STYLE = """
:root { --ink: #1c2733; --soft: #5b6875; --line: #e3e7eb; --paper: #ffffff; --ground: #f5f7f9; --accent: #0072b2; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 3.2rem; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header { background: #12324a; color: #fff; padding: 2.2rem max(1rem, calc((100% - 1120px) / 2)) 1.8rem; }
header p { margin: .2rem 0 0; color: #c8d6e0; max-width: 46rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: .7rem 1.6rem;
  margin: 1.4rem 0 0; }
dt { font-size: .74rem; text-transform: uppercase; letter-spacing: .06em; color: #9fb6c6; }
dd { margin: 0; overflow-wrap: anywhere; }
main dl { margin-top: .6rem; }
main dt { color: var(--soft); }
nav { position: sticky; top: 0; z-index: 5; display: flex; gap: 1.3rem; overflow-x: auto; white-space: nowrap;
  background: rgba(255, 255, 255, .96); border-bottom: 1px solid var(--line);
  padding: .6rem max(1rem, calc((100% - 1120px) / 2)); font-size: .9rem; }
nav a { color: var(--soft); text-decoration: none; }
nav a:hover, nav a:focus { color: var(--accent); text-decoration: underline; }
main { max-width: 1152px; margin: 0 auto; padding: 1.2rem 1rem 0; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 1.4rem 1.6rem 1.6rem;
  margin: 0 0 1.2rem; }
h2 { font-size: 1.3rem; margin: 0 0 .5rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 0 0 .2rem; }
h3.part { font-size: 1.1rem; margin: 1.8rem 0 0; }
p { margin: .4rem 0 .9rem; max-width: 50rem; }
code { background: #eef2f5; border-radius: 4px; padding: .1em .35em; font-size: .9em; }
figure { margin: 1rem 0 0; min-width: 0; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .4rem; max-width: 50rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: .6rem 2rem; }
.plotly-graph-div { width: 100%; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 265px)); gap: 1rem; margin: 1.6rem 0 0; }
.tile { background: rgba(255, 255, 255, .08); border-radius: 8px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.75rem; line-height: 1.2; font-weight: 650; }
.tile span { display: block; }
.tile small { color: #c8d6e0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .82rem; vertical-align: bottom; }
th, td { padding: .42rem .8rem .42rem 0; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
td { vertical-align: top; }
.right { text-align: right; white-space: nowrap; }
th.right { white-space: normal; }
td small { display: block; color: var(--soft); font-size: .78rem; }
td.left small { display: inline; }
tr.marked td { background: #eaf3f9; font-weight: 600; }
tr.marked td:first-child { box-shadow: inset 3px 0 0 var(--accent); padding-left: .6rem; }
tr.marked small { font-weight: 400; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .4rem 1rem; }
.picture img { width: 84px; image-rendering: pixelated; border: 1px solid var(--line); }
.absent { color: var(--soft); font-style: italic; }
.note { color: var(--soft); font-size: .88rem; }
details { border-top: 1px solid var(--line); padding: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
summary small { color: var(--soft); font-weight: 400; margin-left: .4rem; }
details[open] summary { margin-bottom: .5rem; }
.lists { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 250px), 1fr)); gap: .4rem 1.6rem; }
.lists h4 { font-size: .74rem; text-transform: uppercase; letter-spacing: .06em; color: var(--soft);
  margin: 0 0 .2rem; }
.lists ol, .lists ul { margin: 0; padding-left: 1.5rem; font-size: .9rem; }
.lists li { padding: .05rem 0; overflow-wrap: anywhere; }
li.hit { font-weight: 650; color: #005a8c; }
li.hit::after { content: " \\2713\\0000a0bought"; font-size: .78rem; white-space: nowrap; background: #dcedf7;
  border-radius: 4px; padding: .05em .4em; margin-left: .35em; }
footer { max-width: 1120px; margin: 0 auto; padding: .4rem 1rem 2.4rem; color: var(--soft); font-size: .86rem; }
@media (max-width: 600px) {
  header { padding-top: 1.5rem; } h1 { font-size: 1.5rem; } section { padding: 1rem 1rem 1.2rem; border-radius: 0;
  margin-left: -1rem; margin-right: -1rem; border-left: 0; border-right: 0; } .tiles { grid-template-columns: 1fr 1fr; }
}
@media print { nav { display: none; } section { break-inside: avoid; } }
"""
