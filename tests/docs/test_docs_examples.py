"""Python blocks marked as tests in the README and in docs/, and the commands of all pages."""

import contextlib
import io
import pathlib
import re
import runpy
import shlex
import shutil

import pytest

from compressed_lm import codecs, weights
from compressed_lm.commands import commands

ROOT = pathlib.Path(__file__).parents[2]
HOOKS = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
OWN = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*OWN, *sorted({ROOT / file for file in HOOKS["INCLUDED"].values()})]
TESTED = [page for page in OWN if "```python test\n" in page.read_text()]


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def registries():
    """Restores the registries that examples extend."""
    saved = [(registry, dict(registry)) for registry in (codecs.FAMILIES, weights.FAMILIES)]
    yield
    for registry, before in saved:
        registry.clear()
        registry.update(before)


@pytest.mark.thinned(1, "builds the pages of the site")
@pytest.mark.parametrize("page", TESTED, ids=name_of)
def test_marked_python_blocks_run(page, tmp_path, registries):
    """The blocks of a page run in order in a folder with the recorded tables."""
    demo = pathlib.Path("experiments", "recorded", "demo")
    shutil.copytree(ROOT / demo, tmp_path / demo)
    namespace = {"__name__": "example"}
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(io.StringIO()):
        for block in re.findall(r"^```python test\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            exec(compile(block, name_of(page), "exec"), namespace)


def commands_in(page):
    """Returns the words of each line of a page that is a complete `compressed-lm` command."""
    text = re.sub(r"\s*\\\n\s*", " ", page.read_text())
    lines = re.findall(r"^\s*(?:printf '.*' \| )?(compressed-lm [a-z].*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines if not line.endswith(" --help")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands_in(page)], ids=name_of)
def test_commands_on_pages_can_be_parsed(page):
    """Every command on a page exists and accepts its arguments."""
    known = commands()
    for name, *arguments in commands_in(page):
        known[name].parser().parse_args(arguments)
