"""MkDocs hook: pages and tables that are generated from the code, and pages included from other folders.

MkDocs itself is imported only inside the hook functions, so that tests can call the rest without it.
"""

import os
import pathlib
import posixpath
import re
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).parents[1]

INCLUDED = {
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "launch.md": "launch/README.md",
    "pretrained.md": "compressed_lm/pretrained/README.md",
    "experiments/index.md": "experiments/README.md",
    "experiments/windows.md": "experiments/windows/windows.md",
    "experiments/cramming_report.md": "experiments/recorded/cramming/report.md",
    "experiments/smollm2_cramming.md": "experiments/smollm2/cramming.md",
    **{
        f"experiments/{page.parent.name}.md": page.relative_to(ROOT).as_posix()
        for page in sorted(ROOT.glob("experiments/*/README.md"))
    },
}
"""Pages of the site that are files elsewhere in the repository: URI of the page -> file."""

IMAGES = (".png", ".svg")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_TABLE = re.compile(r"^<!-- table: (\w+) -->$", re.MULTILINE)
_TESTED = re.compile(r"^```python test$", re.MULTILINE)  # a name after the language is no valid fence there
_FENCED = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)


def root_page() -> str:
    """Returns the page of the modules outside subpackages."""
    names = sorted(path.stem for path in (ROOT / "compressed_lm").glob("[a-z]*.py"))
    return "# compressed_lm\n" + "".join(f"\n::: compressed_lm.{name}\n" for name in names)


def subpackages() -> list[str]:
    """Returns the names of the subpackages that have a page."""
    return sorted(path.parent.name for path in ROOT.glob("compressed_lm/*/__init__.py"))


def api_page(subpackage: str) -> str:
    """Returns the page of a subpackage: its docstring, then its public modules."""
    modules = sorted(path.stem for path in (ROOT / "compressed_lm" / subpackage).glob("*.py"))
    names = [f"compressed_lm.{subpackage}.{name}" for name in modules if not name.startswith("_")]
    head = f"# compressed_lm.{subpackage}\n\n::: compressed_lm.{subpackage}\n    options:\n      members: false\n"
    head += "      show_root_heading: false\n      show_root_toc_entry: false\n"
    return head + "".join(f"\n::: {name}\n" for name in names)


def command_pages() -> dict[str, str]:
    """Returns the help page of each command by its URI."""
    from compressed_lm.commands import commands

    os.environ["COLUMNS"] = "100"  # argparse wraps to it
    return {
        f"commands/{name}.md": f"# {name}\n\n```text\n{command.parser().format_help()}```\n"
        for name, command in commands().items()
    }


def generated_pages() -> dict[str, str]:
    """Returns every page that is generated, by its URI, and every included one, with links not yet rewritten."""
    pages = {"api/index.md": root_page()} | {f"api/{name}.md": api_page(name) for name in subpackages()}
    return pages | command_pages() | {uri: (ROOT / file).read_text() for uri, file in INCLUDED.items()}


def codecs_table() -> str:
    """Returns the table of codecs."""
    from compressed_lm import codecs

    rows = [(family.example or f"{family.name} (imported)", family.summary) for family in codecs.FAMILIES.values()]
    return markdown_table(("spec", "tokens are"), rows)


def weights_table() -> str:
    """Returns the table of weight formats."""
    from compressed_lm import weights

    rows = [(family.example, family.summary, str(family.stored)) for family in weights.FAMILIES.values()]
    return markdown_table(("spec", "weights are", "can be stored"), rows)


def corpora_table() -> str:
    """Returns the table of kinds of corpora."""
    from compressed_lm.data import sources

    return markdown_table(
        ("corpus", "documents"), [(source.form, source.summary) for source in sources.SOURCES.values()]
    )


def sizes_table() -> str:
    """Returns the table of model sizes, parameters without the embedding and output tables (V = 264)."""
    from compressed_lm.models import SIZES, count_params, model_config

    rows = []
    for name, shape in SIZES.items():
        n = count_params(model_config(name, 264)).non_embedding
        numbers = [shape[key] for key in ("d_model", "n_layers", "n_heads", "d_head", "d_ff")]
        rows.append((name, f"{n:,}", *map(str, numbers)))
    return markdown_table(("size", "parameters", "d_model", "layers", "heads", "d_head", "d_ff"), rows)


def optimizers_table() -> str:
    """Returns the table of optimizers and learning-rate schedules."""
    from compressed_lm.training import optimizers

    tables = {"train.optimizer": optimizers.OPTIMIZERS, "train.schedule": optimizers.SCHEDULES}
    rows = [(f"{key}={name}", build.__doc__) for key, table in tables.items() for name, build in table.items()]
    return markdown_table(("setting", "rule"), rows)


def laws_table() -> str:
    """Returns the table of scaling laws: name, parameters, columns of the run table that it reads."""
    from compressed_lm.scaling import laws

    rows = []
    for name in laws.LAWS:
        law = laws.law_named(name)
        rows.append((name, ", ".join(law.parameters), ", ".join(law.columns)))
    return markdown_table(("law", "parameters", "columns"), rows)


def commands_table() -> str:
    """Returns the table of commands, each with a link to its help page."""
    from compressed_lm.commands import commands

    rows = [(f"[{name}](commands/{name}.md)", command.summary) for name, command in commands().items()]
    return markdown_table(("command", "what it does"), rows)


def columns_table() -> str:
    """Returns the table of required columns of a run table."""
    from compressed_lm.scaling import COLUMNS

    return markdown_table(
        ("column", "type", "content"), [(name, column.kind, column.unit) for name, column in COLUMNS.items()]
    )


TABLES: dict[str, Callable[[], str]] = {
    "codecs": codecs_table,
    "columns": columns_table,
    "commands": commands_table,
    "corpora": corpora_table,
    "laws": laws_table,
    "optimizers": optimizers_table,
    "sizes": sizes_table,
    "weights": weights_table,
}
"""Tables by the name in `<!-- table: NAME -->`."""


def markdown_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Returns a Markdown table. Cells of the first column become code unless they are links."""
    lines = [header, ["---"] * len(header)]
    lines += [(first if first.startswith("[") else f"`{first}`", *rest) for first, *rest in rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def linked_images() -> dict[str, str]:
    """Returns the images outside docs/ that pages show: URI on the site -> file in the repository."""
    images = {}
    for uri, text in generated_pages().items():
        for target in _targets(text):
            file = _resolved(uri, target)
            if file.endswith(IMAGES) and not file.startswith("docs/") and (ROOT / file).is_file():
                images[f"images/{file}"] = file
    return images


def rewrite(text: str, uri: str) -> str:
    """Returns the Markdown of a page with tables filled in and links of the repository made links of the site.

    Links to other files of the repository become their path: the site has no copy of them.

    Args:
        text: the Markdown.
        uri: of the page on the site.

    Raises:
        ValueError: an included page has a link whose target does not exist.
    """
    text = _TABLE.sub(lambda match: TABLES[match[1]](), text)
    parts = _FENCED.split(_TESTED.sub("```python", text))
    for i in range(0, len(parts), 2):
        parts[i] = _LINK.sub(lambda match: _rewritten(match, uri), parts[i])
    return "".join(parts)


def source_of(uri: str) -> str:
    """Returns the file of the repository that a page is made from."""
    return INCLUDED.get(uri, f"docs/{uri}")


def _rewritten(match: re.Match, uri: str) -> str:
    mark, text, target = match.groups()
    if re.match(r"[a-z]+:|#", target):
        return match[0]
    place, _, anchor = target.partition("#")
    file = _resolved(uri, place)
    found = _page_of(file)
    if found is None and (ROOT / file).exists():
        return f"{text} (`{file}`)"
    if found is None:
        if uri in INCLUDED:
            raise ValueError(f"{INCLUDED[uri]} links to {target}, which does not exist.")
        return match[0]  # a generated page, which MkDocs checks
    link = posixpath.relpath(found.partition("#")[0], posixpath.dirname(uri) or ".")
    anchor = anchor or found.partition("#")[2]
    return f"{mark}[{text}]({link}{'#' + anchor if anchor else ''})"


def _page_of(file: str) -> str | None:
    """Returns the URI on the site that shows a file of the repository; None if there is none."""
    pages = {source: uri for uri, source in INCLUDED.items()}
    file = f"{file}/README.md" if (ROOT / file / "README.md").is_file() and file != "." else file
    if file in pages:
        return pages[file]
    if file.startswith("docs/") and (ROOT / file).is_file():
        return file.removeprefix("docs/")
    if file.endswith(IMAGES) and (ROOT / file).is_file():
        return f"images/{file}"
    if (module := re.fullmatch(r"compressed_lm/(\w+)/(\w+)\.py", file)) and (ROOT / file).is_file():
        return f"api/{module[1]}.md#compressed_lm.{module[1]}.{module[2]}"
    return None


def _resolved(uri: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source_of(uri)), target.partition("#")[0]))


def _targets(text: str) -> Iterator[str]:
    for part in _FENCED.split(text)[::2]:
        yield from (match[3] for match in _LINK.finditer(part) if not re.match(r"[a-z]+:|#", match[3]))


def on_config(config):
    """Adds the generated pages to the navigation."""
    groups = {"Commands": "commands/", "API": "api/"}
    sections = {
        name: sorted(uri for uri in generated_pages() if uri.startswith(folder)) for name, folder in groups.items()
    }
    for entry in config.nav:
        for name in entry.keys() & sections.keys():
            entry[name] = sections[name]
    return config


def on_files(files, config):
    """Adds the generated and included pages and the images that they show."""
    from mkdocs.structure.files import File

    for uri, text in generated_pages().items():
        files.append(File.generated(config, uri, content=text))
    for uri, file in linked_images().items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / file)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fills in tables and rewrites links."""
    return rewrite(markdown, page.file.src_uri)
