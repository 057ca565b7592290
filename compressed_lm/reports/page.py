"""Report page: blocks of text, tables and figures, rendered as one HTML file and as Markdown.

In texts, `code` and **bold** are formatted; everything else is shown unchanged.
"""

import base64
import dataclasses
import html
import io
import pathlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Protocol

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
.warning { border-left: 4px solid var(--bad); padding: .2rem .8rem; background: var(--card); }
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
    """One block of a page."""

    def html(self) -> str:
        """Returns the block as HTML."""

    def markdown(self) -> str:
        """Returns the block as GitHub-flavoured Markdown."""


@dataclasses.dataclass(frozen=True)
class Heading:
    """Section heading, listed in the table of contents."""

    text: str

    @property
    def anchor(self) -> str:
        """Target of links to this heading."""
        return re.sub(r"[^a-z0-9]+", "-", self.text.lower()).strip("-")

    def html(self) -> str:
        return f'<h2 id="{self.anchor}">{_inline(self.text)}</h2>'

    def markdown(self) -> str:
        return f"## {_text(self.text)}"


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Paragraph of text."""

    text: str

    def html(self) -> str:
        return f"<p>{_inline(self.text)}</p>"

    def markdown(self) -> str:
        return _text(self.text)


@dataclasses.dataclass(frozen=True)
class Alert:
    """Highlighted paragraph for a problem."""

    text: str

    def html(self) -> str:
        return f'<p class="warning">{_inline(self.text)}</p>'

    def markdown(self) -> str:
        return f"> **Warning:** {_text(self.text)}"


@dataclasses.dataclass(frozen=True)
class Bullets:
    """Bullet list."""

    items: Sequence[str]

    def html(self) -> str:
        return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in self.items) + "</ul>"

    def markdown(self) -> str:
        return "\n".join(f"- {_text(item)}" for item in self.items)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Key figures: (value, description) pairs."""

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
    """Table of text cells.

    Attributes:
        header: column titles.
        rows: cells of each row.
        align: one letter per column, l (left) or r (right).
        marks: cell text -> CSS class of cells with this text.
    """

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
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(_text(cell).replace("|", "\\|") for cell in cells) + " |"

        rule = "|" + "|".join("---:" if letter == "r" else "---" for letter in self.align) + "|"
        return "\n".join([line(self.header), rule, *(line(row) for row in self.rows)])


@dataclasses.dataclass(frozen=True)
class Figure:
    """Plot with a caption.

    Attributes:
        name: file name of the picture, without extension.
        draw: draws on the given axes.
        caption: text below the plot.
        size: width and height (inches).
    """

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

    def picture(self, kind: str, ink: str, **options: Any) -> bytes:
        """Returns the plot as a file; equal arguments give equal bytes.

        Args:
            kind: "svg" or "png".
            ink: color of text and axes.
            **options: passed to `savefig`.
        """
        colors = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
        settings: dict[Any, Any] = {
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
            canvas.savefig(buffer, **{"format": kind, "metadata": metadata, "facecolor": "none", **options})
        return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Sample:
    """Generated text, unchanged; control characters are shown as visible symbols."""

    label: str
    text: str

    def html(self) -> str:
        return f'<div class="sample"><b>{_inline(self.label)}</b><pre>{html.escape(_printable(self.text))}</pre></div>'

    def markdown(self) -> str:
        return f"{_text(self.label)}\n\n{_fenced(self.text)}"


@dataclasses.dataclass(frozen=True)
class Code:
    """Preformatted text, such as a formula or a command."""

    text: str

    def html(self) -> str:
        return f"<pre>{html.escape(_printable(self.text))}</pre>"

    def markdown(self) -> str:
        return _fenced(self.text)


@dataclasses.dataclass(frozen=True)
class Page:
    """Report page.

    Attributes:
        title: heading of the page.
        lead: sentence below the title.
        blocks: content, in order.
    """

    title: str
    lead: str
    blocks: Sequence[Block]

    def html(self) -> str:
        """Returns the page as one HTML file without scripts or external files."""
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
        """Returns the page as Markdown; its pictures are in `figures/`."""
        contents = "\n".join(f"- [{_plain(b.text)}](#{b.anchor})" for b in self.blocks if isinstance(b, Heading))
        parts = [f"# {_text(self.title)}", _text(self.lead), contents, *(block.markdown() for block in self.blocks)]
        return "\n\n".join(parts) + "\n"

    def write(self, out: pathlib.Path) -> list[pathlib.Path]:
        """Writes report.html, report.md and figures/*.png into a folder and returns their paths in this order.

        Each file is written to a temporary name and renamed.
        """
        files = {out / "report.html": self.html().encode(), out / "report.md": self.markdown().encode()}
        for block in self.blocks:
            if isinstance(block, Figure):
                path = out / "figures" / f"{block.name}.png"
                files[path] = block.picture("png", _INK["light"], dpi=160, facecolor="white")
        for path, content in files.items():
            write_atomic(path, content)
        return list(files)


def _fenced(text: str) -> str:
    """Returns a Markdown code block; its fence is longer than any run of backticks in the text."""
    text = _printable(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _inline(text: str) -> str:
    """Returns a text with `code` and **bold** as HTML."""
    escaped = html.escape(_printable(text))
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escaped)


def _text(text: str) -> str:
    """Returns a text with `code` and **bold** as one line of Markdown; HTML tags are escaped."""
    return " ".join(_printable(text).split()).replace("<", "&lt;")


def _plain(text: str) -> str:
    return re.sub(r"[`*\[\]]", "", " ".join(_printable(text).split()))


def _printable(text: str) -> str:
    """Replaces control characters (except newline and tab) and lone surrogates by visible characters."""

    def visible(c: str) -> str:
        if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"):
            return c
        return chr(0x2400 + ord(c)) if ord(c) < 32 else "\N{REPLACEMENT CHARACTER}"

    return "".join(map(visible, text))
