"""A page of headings, paragraphs, tables and figures that renders itself as one HTML file and as Markdown.

Text may hold `code` and **bold**; everything else in it is shown as it is.
"""

import base64
import dataclasses
import html
import io
import pathlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Protocol

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from compressed_lm.io import write_atomic

_INK = {"light": "#1f2430", "dark": "#e3e6ea"}

CSS = """
:root { color-scheme: light dark; --ink: #1f2430; --soft: #5b6472; --line: #dfe3e8; --back: #ffffff; --card: #f6f7f9;
  --good: #0a7a55; --bad: #b3470b; --accent: #0b66b0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6ea; --soft: #9aa4b1; --line: #333a44; --back: #14171b;
  --card: #1c2026; --good: #4cc69a; --bad: #f0925a; --accent: #6cb6f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.6 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif; }
.page { display: grid; grid-template-columns: minmax(0, 54rem); justify-content: center; gap: 3rem;
  padding: 2.5rem 1.5rem 5rem; }
@media (min-width: 78rem) { .page { grid-template-columns: 13rem minmax(0, 54rem); }
  nav { position: sticky; top: 2.5rem; align-self: start; } }
nav ol { list-style: none; margin: 0; padding: 0; font-size: .9rem; }
nav li { padding: .18rem 0; }
nav a { color: var(--soft); text-decoration: none; }
nav a:hover { color: var(--accent); text-decoration: underline; }
nav strong { display: block; margin-bottom: .4rem; font-size: .75rem; letter-spacing: .08em; color: var(--soft);
  text-transform: uppercase; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.015em; text-wrap: balance; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: .4rem; letter-spacing: -.01em; }
.lead { color: var(--soft); font-size: 1.08rem; margin: 0 0 1.6rem; }
p, li { max-width: 44rem; }
ul { padding-left: 1.2rem; }
ul li { margin: .25rem 0; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; padding: .1em .3em;
  background: var(--card); border-radius: 4px; white-space: nowrap; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.5rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .86rem; line-height: 1.35; display: block; }
.tile code, td code { background: none; padding: 0; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; line-height: 1.3; color: var(--soft); border-bottom: 2px solid var(--line);
  vertical-align: bottom; }
td { line-height: 1.4; border-bottom: 1px solid var(--line); vertical-align: top; }
th, td { padding: .42rem .8rem .42rem 0; }
.right { text-align: right; }
td.right, .verdict { white-space: nowrap; }
.verdict { font-weight: 600; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.none { color: var(--soft); }
figure { margin: 1.4rem 0 2rem; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 44rem; margin-top: .4rem; }
.sample { margin: 1rem 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; margin: .3rem 0;
  overflow: auto; max-height: 22rem; white-space: pre-wrap; overflow-wrap: anywhere; font: .84rem/1.5 ui-monospace,
  SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media print { nav { display: none; } pre { max-height: none; } figure, tr { break-inside: avoid; } }
"""


class Block(Protocol):
    """One piece of the page."""

    def html(self) -> str:
        """The piece as HTML."""

    def markdown(self) -> str:
        """The piece as GitHub-flavoured Markdown."""


@dataclasses.dataclass(frozen=True)
class Heading:
    """A section's title; the table of contents lists it."""

    text: str

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.text.lower()).strip("-")

    def html(self) -> str:
        return f'<h2 id="{self.anchor}">{_inline(self.text)}</h2>'

    def markdown(self) -> str:
        return f"## {_text(self.text)}"


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str

    def html(self) -> str:
        return f"<p>{_inline(self.text)}</p>"

    def markdown(self) -> str:
        return _text(self.text)


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]

    def html(self) -> str:
        return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in self.items) + "</ul>"

    def markdown(self) -> str:
        return "\n".join(f"- {_text(item)}" for item in self.items)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """A few numbers that matter most, each with what it is."""

    items: Sequence[tuple[str, str]]

    def html(self) -> str:
        tiles = (
            f'<div class="tile"><b>{_inline(value)}</b><span>{_inline(label)}</span></div>'
            for value, label in self.items
        )
        return f'<div class="tiles">{"".join(tiles)}</div>'

    def markdown(self) -> str:
        return "\n".join(f"- **{_text(value)}** {_text(label)}" for value, label in self.items)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text. `align` has a letter per column, l or r. A cell that is a key of `marks` is drawn in that class."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str
    marks: dict[str, str] = dataclasses.field(default_factory=dict)

    def html(self) -> str:
        classes = [' class="right"' if letter == "r" else "" for letter in self.align]
        head = "".join(f"<th{c}>{_inline(cell)}</th>" for c, cell in zip(classes, self.header, strict=True))
        body = "".join(
            "<tr>" + "".join(f"<td{c}>{self._cell(cell)}</td>" for c, cell in zip(classes, row, strict=True)) + "</tr>"
            for row in self.rows
        )
        return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'

    def _cell(self, cell: str) -> str:
        mark = self.marks.get(cell)
        return f'<span class="verdict {mark}">{_inline(cell)}</span>' if mark else _inline(cell)

    def markdown(self) -> str:
        def line(cells):
            return "| " + " | ".join(_text(cell).replace("|", "\\|") for cell in cells) + " |"

        rule = "|" + "|".join("---:" if letter == "r" else "---" for letter in self.align) + "|"
        return "\n".join([line(self.header), rule, *(line(row) for row in self.rows)])


@dataclasses.dataclass(frozen=True)
class Figure:
    """A plot with its caption. `draw` gets the axes to draw on; `name` is the stem of the picture's file."""

    name: str
    draw: Callable[[Axes], Axes]
    caption: str
    size: tuple[float, float] = (8.8, 4.6)

    def html(self) -> str:
        light, dark = (
            f"data:image/svg+xml;base64,{base64.b64encode(self.picture('svg', ink)).decode()}" for ink in _INK.values()
        )
        return (
            f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}"><img src="{light}" '
            f'alt="{html.escape(_plain(self.caption))}"></picture><figcaption>{_inline(self.caption)}</figcaption></figure>'
        )

    def markdown(self) -> str:
        return f"![{_plain(self.caption)}](figures/{self.name}.png)\n\n*{_text(self.caption)}*"

    def picture(self, kind: str, ink: str, **options) -> bytes:
        """The plot as a file of the given kind ("svg" or "png"), lines and letters in `ink`; always the same bytes."""
        colors = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
        settings = {
            **dict.fromkeys(colors, ink),
            "grid.color": "#808a96",
            "axes.facecolor": "none",
            "svg.hashsalt": self.name,
            "font.size": 10.5,
        }
        with matplotlib.rc_context(settings):
            canvas = Canvas(figsize=self.size, layout="constrained")
            self.draw(canvas.add_subplot())
            buffer = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            canvas.savefig(buffer, format=kind, metadata=metadata, **{"facecolor": "none", **options})
        return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Sample:
    """Text as a model wrote it, character by character; control characters are shown as pictures of themselves."""

    label: str
    text: str

    def html(self) -> str:
        return f'<div class="sample"><b>{_inline(self.label)}</b><pre>{html.escape(_printable(self.text))}</pre></div>'

    def markdown(self) -> str:
        text = _printable(self.text)
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
        return f"{_text(self.label)}\n\n{fence}text\n{text}\n{fence}"


@dataclasses.dataclass(frozen=True)
class Page:
    """A title, a sentence under it, and blocks."""

    title: str
    lead: str
    blocks: Sequence[Block]

    def html(self) -> str:
        """One file that needs neither network nor scripts."""
        headings = [block for block in self.blocks if isinstance(block, Heading)]
        contents = "".join(f'<li><a href="#{h.anchor}">{_inline(h.text)}</a></li>' for h in headings)
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(_plain(self.title))}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
            '<div class="page">\n<nav aria-label="Contents"><strong>Contents</strong>'
            f"<ol>{contents}</ol></nav>\n<main>\n"
            f'<h1>{_inline(self.title)}</h1>\n<p class="lead">{_inline(self.lead)}</p>\n'
            + "\n".join(block.html() for block in self.blocks)
            + "\n</main>\n</div>\n</body>\n</html>\n"
        )

    def markdown(self) -> str:
        """The same page; its pictures lie in `figures/`."""
        contents = "\n".join(f"- [{_plain(b.text)}](#{b.anchor})" for b in self.blocks if isinstance(b, Heading))
        parts = [f"# {_text(self.title)}", _text(self.lead), contents, *(block.markdown() for block in self.blocks)]
        return "\n\n".join(parts) + "\n"

    def write(self, out: pathlib.Path) -> list[pathlib.Path]:
        """Paths of report.html, report.md and figures/*.png, in this order, each written by an atomic rename."""
        files = {out / "report.html": self.html().encode(), out / "report.md": self.markdown().encode()}
        for block in self.blocks:
            if isinstance(block, Figure):
                path = out / "figures" / f"{block.name}.png"
                files[path] = block.picture("png", _INK["light"], dpi=160, facecolor="white")
        for path, content in files.items():
            write_atomic(path, content)
        return list(files)


def _inline(text: str) -> str:
    """HTML of a text with `code` and **bold**."""
    escaped = html.escape(_printable(text))
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escaped)


def _text(text: str) -> str:
    """Markdown of a text with `code` and **bold**: one line, tags made harmless."""
    return " ".join(_printable(text).split()).replace("<", "&lt;")


def _plain(text: str) -> str:
    return re.sub(r"[`*\[\]]", "", " ".join(_printable(text).split()))


def _printable(text: str) -> str:
    """Control characters (but newline and tab) and lone surrogates as visible characters."""

    def visible(c):
        if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"):
            return c
        return chr(0x2400 + ord(c)) if ord(c) < 32 else "\N{REPLACEMENT CHARACTER}"

    return "".join(map(visible, text))
