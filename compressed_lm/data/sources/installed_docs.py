"""Default corpus: the documentation of the packages that this project installs.

It is English prose on every machine, offline: docstrings and documentation literals (`docstrings.py`) of the direct and
indirect dependencies of compressed_lm. The list of packages comes from their metadata, not from site-packages, so equal
versions give equal documents.

Cleaning follows C4 (Raffel et al. 2020, section 2.2), which keeps repeated spans only once and removes code: repeated
paragraphs, doctests and paragraphs with mostly symbols and digits are dropped. A document joins consecutive texts of
one package to at least 2 kB, the length of a C4 page, so that document ends are rare and related functions are
together.
"""

import concurrent.futures
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement

from compressed_lm.data.corpus import Corpus, Document, Source, Span, Unit
from compressed_lm.data.sources import docstrings
from compressed_lm.errors import InputError

# Well written, in three styles (Google, Sphinx, plain prose) on three subjects; no other package contains copies.
VALIDATION_PACKAGES = ("optax", "pillow", "werkzeug")
RECIPE = 1  # part of the fingerprint; increment it if another rule below changes the documents

_ROOT = "compressed_lm"
_EXTRAS = ("corpora", "dev")
# setuptools often comes with the interpreter, so the project does not determine its version.
_SKIPPED_PACKAGES = ("compressed-lm", "setuptools")
# Became dependencies after figures had been recorded on the documents of the others. What only they require is left
# out, too.
_LATER_PACKAGES = ("gcp-storage-emulator", "jaxtyping", "moto", "orjson")
_SKIPPED_FILES = re.compile(
    r"(^|/)(tests?|testing|_?vendor(ed)?)/|_test\.py$|(^|/)(test_|conftest)[^/]*$"  # tests and copies of other packages
    r"|(^|/)gen_[^/]*$|_gen\.py$|_pb2(_grpc)?\.py$"  # generated: the same sentence many times
)
_DOCUMENT_BYTES = 2000
_UNIT_BYTES = 8 << 20  # the whole corpus has about 30 MB
_MIN_TEXT_BYTES = 100
_MIN_REPEATED = 60  # shorter paragraphs ("Returns:") may repeat
_MIN_PROSE = 0.75  # share of letters and spaces
_DOCTEST = re.compile(r"^\s*>>> .*", re.MULTILINE | re.DOTALL)
_BLANK_LINES = re.compile(r"\n\s*\n")


def packages() -> dict[str, importlib.metadata.Distribution]:
    """Returns the installed direct and indirect dependencies of compressed_lm, sorted by normalised name."""
    found = {}
    visited = set()
    todo: list[tuple[str, tuple[str, ...]]] = [(_ROOT, _EXTRAS)]
    while todo:
        name, extras = todo.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if (name, extras) in visited or name in _LATER_PACKAGES:
            continue
        visited.add((name, extras))
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in found[name].requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append((requirement.name, tuple(sorted(requirement.extras))))
    if _ROOT.replace("_", "-") not in found:
        raise InputError(
            "The corpus installed_docs needs the metadata of compressed_lm, which is not installed in this "
            "environment. Run `pip install -e .` in the repository (`make` does this), or name another corpus."
        )
    return {name: found[name] for name in sorted(found) if name not in _SKIPPED_PACKAGES}


def fingerprint() -> str:
    """Returns the hex digest of the recipe and of every package's version."""
    versions = {name: package.version for name, package in packages().items()}
    return hashlib.sha256(json.dumps([RECIPE, VALIDATION_PACKAGES, versions]).encode()).hexdigest()


@functools.cache
def documents() -> dict[str, tuple[bytes, ...]]:
    """Returns the documents of both splits, ordered by a hash of their content, so that any prefix is a random sample.

    They are computed once per process, in 10 to 30 seconds on two cores.
    """
    texts = _texts_by_package()
    seen: set[bytes] = set()
    split_documents = {}
    # Validation first, so that paragraphs which it shares with other packages are removed from training.
    for split in ("validation", "train"):
        found: list[bytes] = []
        for package in texts:
            if (package in VALIDATION_PACKAGES) == (split == "validation"):
                found.extend(_join(_clean(text, seen) for text in texts[package]))
        split_documents[split] = tuple(sorted(found, key=lambda document: hashlib.sha256(document).digest()))
    return split_documents


def _texts_by_package() -> dict[str, list[str]]:
    """Returns the texts of each package, in the order of its files' paths."""
    files: list[tuple[str, str]] = []
    for name, package in packages().items():
        paths = sorted(
            str(path) for path in package.files or () if path.suffix == ".py" and not _SKIPPED_FILES.search(str(path))
        )
        files.extend((name, located) for path in paths if os.path.isfile(located := str(package.locate_file(path))))
    # One slice per interpreter, one interpreter per core. Slices of files, since one package has a quarter of the
    # source.
    slices = [[path for _, path in files[start : start + 500]] for start in range(0, len(files), 500)]
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        found = itertools.chain.from_iterable(pool.map(_texts_elsewhere, slices))
        texts: dict[str, list[str]] = {}
        for (name, _), of_file in zip(files, found, strict=True):
            texts.setdefault(name, []).extend(of_file)
    return texts


def _texts_elsewhere(paths: list[str]) -> list[list[str]]:
    """Returns `docstrings.texts` of each file, computed in another interpreter."""
    command = [sys.executable, "-m", docstrings.__name__]
    result = subprocess.run(command, input=json.dumps(paths).encode(), capture_output=True, check=True)
    return json.loads(result.stdout)


def _clean(text: str, seen: set[bytes]) -> str:
    """Returns the paragraphs of a text that are prose and new, and adds their digests to `seen`."""
    kept = []
    for paragraph in _BLANK_LINES.split(text):
        paragraph = _DOCTEST.sub("", paragraph).strip("\n")
        words = " ".join(paragraph.split())
        if not words or sum(map(str.isalpha, words)) + words.count(" ") < _MIN_PROSE * len(words):
            continue
        if len(words) >= _MIN_REPEATED:
            key = hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=12).digest()
            if key in seen:
                continue
            seen.add(key)
        kept.append(paragraph)
    return "\n\n".join(kept)


def _join(texts: Iterator[str]) -> Iterator[bytes]:
    """Yields documents: consecutive texts joined by blank lines up to the size of a document."""
    parts: list[bytes] = []
    size = 0
    for text in texts:
        part = text.encode("utf-8", "replace")
        if len(part) < _MIN_TEXT_BYTES:
            continue
        parts.append(part)
        size += len(part)
        if size >= _DOCUMENT_BYTES:
            yield b"\n\n".join(parts)
            parts, size = [], 0
    if parts:
        yield b"\n\n".join(parts)


class InstalledDocs(Corpus):
    """Documentation of the installed packages; whole packages are held out for validation.

    Once it was read, it pickles with its documents, so that worker processes need not compute them again.
    """

    spec = "installed_docs"
    splits = ("train", "validation")

    def __init__(self) -> None:
        self._documents: dict[str, tuple[bytes, ...]] | None = None

    def _found(self, split: str) -> tuple[bytes, ...]:
        self._documents = self._documents or documents()
        return self._documents[split]

    def _units(self, split: str) -> tuple[Unit, ...]:
        units, start, size = [], 0, 0
        found = self._found(split)
        for stop, document in enumerate(found, 1):
            size += len(document)
            if size >= _UNIT_BYTES or stop == len(found):
                units.append(Unit((Span(self.spec, start, stop),), size))
                start, size = stop, 0
        return tuple(units)

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        (span,) = unit.spans
        yield from map(Document, self._found(split)[span.start + skip : span.stop])

    def _fingerprint(self, split: str) -> str:
        return fingerprint()


SOURCE = Source(
    "installed_docs",
    "installed_docs",
    "documentation of the installed packages, offline",
    lambda rest, opener: InstalledDocs(),
)
