"""The documentation site: links, tables and generated pages, without MkDocs."""

import pathlib
import posixpath
import re
import runpy

import pytest

ROOT = pathlib.Path(__file__).parents[2]
HOOKS = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def site():
    """Returns every page of the site by its URI, with tables and links as passed to MkDocs."""
    own = {
        path.relative_to(ROOT / "docs").as_posix(): path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))
    }
    return {uri: HOOKS["rewrite"](text, uri) for uri, text in (HOOKS["generated_pages"]() | own).items()}


def test_links_of_the_site_resolve(site):
    """Every relative link of the site points to a page or an image."""
    images = HOOKS["linked_images"]()
    for uri, text in site.items():
        for target in HOOKS["_targets"](text):
            found = posixpath.normpath(posixpath.join(posixpath.dirname(uri), target.partition("#")[0]))
            assert found in site or found in images or (ROOT / "docs" / found).is_file(), (uri, target)


def test_links_of_the_readme_resolve():
    """Every relative link of the README points to a file of the repository."""
    for target in HOOKS["_targets"](README):
        assert (ROOT / target.partition("#")[0]).exists(), target


def test_the_readme_is_short():
    """The README is short; details belong in docs/."""
    assert len(README.splitlines()) <= 120


def test_every_page_is_in_the_navigation(site):
    """Each page is listed in mkdocs.yml, except the groups that the hook generates."""
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = set(re.findall(r"([\w/]+\.md)$", nav, re.MULTILINE))
    assert named == {uri for uri in site if not uri.startswith(("api/", "commands/"))}


def test_tables_are_filled_in(site):
    """Each table has a row for each entry of its registry, and no marker is left."""
    from compressed_lm import codecs, weights
    from compressed_lm.data.sources import SOURCES
    from compressed_lm.models import SIZES

    assert not [uri for uri, text in site.items() if "<!-- table:" in text]
    used = set(re.findall(r"<!-- table: (\w+) -->", "".join(p.read_text() for p in (ROOT / "docs").rglob("*.md"))))
    assert used == set(HOOKS["TABLES"])
    for registry, page in (
        (codecs.FAMILIES, "guides/codecs.md"),
        (weights.FAMILIES, "guides/weights.md"),
        (SOURCES, "guides/corpora.md"),
        (SIZES, "guides/training.md"),
    ):
        rows = [line for line in site[page].splitlines() if line.startswith("| `")]
        for name in registry:
            example = getattr(registry[name], "example", "") or getattr(registry[name], "form", "") or name
            assert any(line.startswith(f"| `{example}") for line in rows), (page, name)


def test_the_layout_names_every_subpackage():
    """The page on the layout has a line for each subpackage."""
    page = (ROOT / "docs" / "layout.md").read_text()
    assert not [name for name in HOOKS["subpackages"]() if f"\n  {name}/ " not in page]


def test_an_included_page_with_a_broken_link_is_refused():
    """A broken link of an included page is an error with the page and the target."""
    with pytest.raises(ValueError, match="experiments/README.md links to gone.md"):
        HOOKS["rewrite"]("[gone](gone.md)", "experiments/index.md")


def test_links_to_files_that_the_site_lacks_become_paths():
    """Links to scripts or folders are shown as paths; links to modules point to the API pages."""
    rewrite = HOOKS["rewrite"]
    assert rewrite("[a](../../launch/local.sh)", "guides/demo.md") == "a (`launch/local.sh`)"
    link = "../api/codecs.md#compressed_lm.codecs.protocol"
    assert rewrite("[a](../../compressed_lm/codecs/protocol.py)", "guides/demo.md") == f"[a]({link})"
