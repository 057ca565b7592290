"""The default corpus: documentation of installed packages."""

import importlib.metadata
import pickle

import pytest

from compressed_lm.data.sources import docstrings, installed_docs, open_corpus
from compressed_lm.errors import InputError

LONG = "A sentence that documents something, and is long enough to be kept. " * 4


def test_texts_are_docstrings_and_long_literals_in_source_order():
    """Module, class, method, nested and conditional definitions, decorator and call literals; nothing else."""
    source = f'''
"""Module."""
import nothing_that_exists
name = "short"
template = """{LONG}"""
add_newdoc("name", """two{LONG}""")

class A(B):
    """Class.

    More of it.
    """
    @doc("three{LONG}")
    def method(self):
        """Method."""
        def inner():
            """Inner."""
        raise ValueError("message")

if True:
    async def conditional():
        """Conditional."""
'''
    found = docstrings.texts(source.encode())
    texts = [
        "Module.",
        LONG,
        f"two{LONG}",
        "Class.\n\nMore of it.",
        f"three{LONG}",
        "Method.",
        "Inner.",
        "Conditional.",
    ]
    assert [text.strip() for text in found] == [text.strip() for text in texts]


@pytest.mark.parametrize(
    "source", [b"x = 1", b'"""unclosed', b'"""null\0byte"""', b"# -*- coding: nonsense -*-\n'''x'''"]
)
def test_source_without_docs_gives_nothing(source):
    """Files without docstrings, or with syntax errors, are skipped."""
    assert docstrings.texts(source) == []


def test_cleaning_keeps_new_prose_only():
    """Doctests, tables and repeated paragraphs are dropped; short headings may repeat."""
    seen = set()
    mean = "The mean of the array, computed over all of its axes unless told otherwise."
    first = f"Returns:\n\n{mean}\n\n>>> mean([1, 2])\n1.5"
    assert installed_docs._clean(first, seen) == f"Returns:\n\n{mean}"
    other_lines = mean.replace(", ", ",\n  ")
    second = f"Returns:\n\n{other_lines}\n\nSomething new.\n\n1 | 2 | 3\n4 | 5 | 6"
    assert installed_docs._clean(second, seen) == "Returns:\n\nSomething new."


def test_documents_join_texts_to_their_size():
    """Consecutive texts are joined up to 2 kB; texts below 100 bytes are dropped; no text is split."""
    texts = ["a" * 900, "short", "b" * 1200, "c" * 5000, "d" * 150]
    assert list(installed_docs._join(iter(texts))) == [b"a" * 900 + b"\n\n" + b"b" * 1200, b"c" * 5000, b"d" * 150]


def test_packages_are_the_declared_requirements():
    """The packages are direct and indirect requirements of compressed_lm, without those that came later."""
    names = list(installed_docs.packages())
    assert names == sorted(names)
    assert {"numpy", "scipy", "pandas", "matplotlib", "jax", "pillow"} <= set(names)
    assert not {"pip", "setuptools", "compressed-lm", "jaxtyping", "wadler-lindig", "orjson", "moto", "botocore"} & set(
        names
    )


def test_project_must_be_installed(monkeypatch):
    """Without the project's metadata the message says how to install it."""

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(
        InputError, match="compressed_lm, which is not installed in this environment. Run `pip install -e .`"
    ):
        installed_docs.packages()


@pytest.fixture
def few_packages(monkeypatch):
    """Returns the corpus of four packages, which takes a second."""
    names = ("absl-py", "fsspec", "optax", "pillow")
    monkeypatch.setattr(
        installed_docs, "packages", lambda: {name: importlib.metadata.distribution(name) for name in names}
    )
    installed_docs.documents.cache_clear()
    yield
    installed_docs.documents.cache_clear()


def test_corpus_is_deterministic_deduplicated_and_held_out_by_package(few_packages):
    """Two builds are equal, no long paragraph repeats, and validation packages are not in training."""
    corpus = open_corpus("installed_docs")
    splits = {split: list(corpus.documents(split)) for split in corpus.splits}
    assert sum(map(len, splits["train"])) > 100_000 and sum(map(len, splits["validation"])) > 300_000
    documents = [document.decode() for split in splits.values() for document in split]
    paragraphs = [" ".join(text.split()) for document in documents for text in document.split("\n\n")]
    long = [paragraph for paragraph in paragraphs if len(paragraph) >= 60]
    assert len(long) == len(set(long)) > 1000
    assert any(b"optimizer" in document for document in splits["validation"])
    assert not any(b"optimizer" in document for document in splits["train"])
    assert all(500 < len(document) for document in splits["train"][:50])
    sharded = [list(corpus.documents("train", shard=shard, n_shards=3)) for shard in range(3)]
    assert sharded == [splits["train"][shard::3] for shard in range(3)]
    installed_docs.documents.cache_clear()
    assert {split: list(open_corpus("installed_docs").documents(split)) for split in corpus.splits} == splits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installed_docs, "documents", None)
        copy = pickle.loads(pickle.dumps(corpus))
        assert {split: list(copy.documents(split)) for split in copy.splits} == splits, "a worker does not compute them"


def test_fingerprint_follows_versions(few_packages, monkeypatch):
    """Another version of a package, or another recipe, changes the fingerprint."""
    before = installed_docs.fingerprint()
    assert installed_docs.fingerprint() == before
    monkeypatch.setattr(installed_docs, "RECIPE", installed_docs.RECIPE + 1)
    changed = installed_docs.fingerprint()
    assert changed != before
    fewer = dict(list(installed_docs.packages().items())[:-1])
    monkeypatch.setattr(installed_docs, "packages", lambda: fewer)
    assert installed_docs.fingerprint() not in (before, changed)
