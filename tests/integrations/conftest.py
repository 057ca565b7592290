"""Documents in several languages, and codecs, for tests of tokenizers elsewhere."""

import contextlib
import gettext
import gzip
import inspect
import json
import pathlib
import random

import pytest

from compressed_lm import codecs, integrations

CATALOGUES = pathlib.Path("/usr/share/locale")
EDGES = [
    "",
    " ",
    " " * 300,
    "\n\n\t \r\n\x0b\x0c",
    "\x00",
    "a\x00b\x00\x00",
    "x" * 20_000,
    "".join(chr(33 + i * i % 94) for i in range(20_000)),
    "<|endoftext|>",
    "a <|endoftext|><|pad|> b<unk></s>",
    "\u3000全角\u3000空白\xa0nbsp\u2028line\x85next",
    "\ufeffbom \ufffd \u200b\u200d zero",
    "👩‍👩‍👧‍👦 𝔘𝔫𝔦 é e\u0301 ﬁ ǅ İı ß ẞ",
    "".join(map(chr, range(0xD800))),
    "▁ lower one eighth block ▁▁",
]


def catalogue(language: str) -> list[str]:
    """Returns the translations that this machine's programs have in a language."""
    texts: list[str] = []
    for path in sorted((CATALOGUES / language / "LC_MESSAGES").glob("*.mo")):
        with path.open("rb") as file, contextlib.suppress(UnicodeDecodeError):  # some have another encoding
            texts += [t for t in gettext.GNUTranslations(file)._catalog.values() if isinstance(t, str) and len(t) > 20]
    return sorted(set(texts))


@pytest.fixture(scope="session")
def edges():
    """Texts at the edges of the format, and random text."""
    chance = random.Random(0)
    points = [*range(0x20, 0x250), *range(0x3040, 0x30FF), *range(0x1F600, 0x1F640), 9, 10, 13, 0]
    return EDGES + ["".join(chr(chance.choice(points)) for _ in range(n)) for n in (1, 10, 100, 1000)]


@pytest.fixture(scope="session")
def code():
    """500 parts of Python's own sources."""
    modules = (inspect, gettext, json, random, pathlib, gzip)
    source = "\n".join(inspect.getsource(module) for module in modules)
    return [source[i : i + 400] for i in range(0, 200_000, 400)]


@pytest.fixture(scope="session")
def languages(data_dir, code):
    """2,000 documents: 500 each of C4, Python code, German and Japanese."""
    file = data_dir / "corpora/c4_en/c4-train.00000-of-00001.json.gz"
    with gzip.open(file, "rt") as lines:
        c4 = [json.loads(line)["text"] for line, _ in zip(lines, range(500), strict=False)]
    german, japanese = (random.Random(1).sample(texts, min(len(texts), 500)) for texts in map(catalogue, ("de", "ja")))
    if len(german) + len(japanese) < 1000:
        pytest.skip("needs the German and Japanese message catalogues of Debian's programs in /usr/share/locale")
    return [*c4, *code[:500], *german, *japanese]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Returns a function that writes the files of a tokenizer into a new folder."""

    def write(codec, *, files=None, config=None):
        folder = tmp_path_factory.mktemp("tokenizer")
        for name, content in (files or integrations.export_tokenizer(codec)).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        if config:
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return write


@pytest.fixture(scope="session")
def built(code):
    """Returns a function from the name or spec of a codec to the codec."""
    made = {}

    def build(name):
        if name not in made:
            if name in codecs.shipped():
                made[name] = codecs.load(name)
            elif name.startswith("ac"):
                from compressed_lm.pipelines.m1 import load_m1

                made[name] = codecs.create(name, m1=load_m1("pretrained"))
            else:
                made[name] = codecs.create(name, documents=lambda: [text.encode() for text in code])
        return made[name]

    return build
