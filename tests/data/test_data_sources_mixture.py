"""Mixtures by rates, and their specs."""

import collections
import json
import pickle

import numpy as np
import pytest

from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Returns a folder with three corpora of different sizes and lengths of documents, in several units of work."""
    monkeypatch.setattr(corpus_lib, "UNIT_BYTES", 100_000)
    rng = np.random.default_rng(0)
    for name, n, mean in (("a", 3000, 300), ("b", 1500, 300), ("c", 4000, 100)):
        texts = (rng.bytes(int(size)).hex() for size in rng.exponential(mean / 2, n))
        (tmp_path / f"{name}.json").write_text("".join(json.dumps({"text": f"{name} {text}"}) + "\n" for text in texts))
    return tmp_path


def documents_of(mixed):
    """Returns the documents of a mixture by part."""
    found = collections.defaultdict(list)
    for unit in mixed.units():
        found[mixed.parts[unit.part[0]][1].spec].extend(document.text for document in mixed.read("train", unit))
    return found


@pytest.mark.parametrize("rates", [(0.7, 0.2, 0.1), (0.1, 0.1, 0.8), (1.0, 1.0, 1.0), (0.05, 0.9, 0.05)])
def test_rates_are_shares_of_the_text(folder, rates):
    """The shares of bytes are the rates, the scarcest corpus is used whole, and no document is used twice."""
    parts = [f"json:{folder}/{name}.json" for name in "abc"]
    mixed = open_corpus("mix:" + ",".join(f"{rate}*{part}" for rate, part in zip(rates, parts, strict=True)))
    found = documents_of(mixed)
    assert list(found) == parts
    sizes = np.array([sum(map(len, found[part])) for part in parts])
    np.testing.assert_allclose(sizes / sizes.sum(), np.array(rates) / sum(rates), atol=0.03)
    assert max(mixed.kept()) == 1.0
    for kept, part in zip(mixed.kept(), parts, strict=True):
        everything = list(open_corpus(part).documents())
        positions = iter(everything)
        assert all(document in positions for document in found[part]), "in order, each at most once"
        assert kept < 1 or found[part] == everything
    assert mixed.estimated_bytes("train") == pytest.approx(sizes.sum(), rel=0.05)


def test_units_of_a_mixture_by_rates_are_read_alone_and_resumed(folder):
    """A unit read alone, by another process, or from the middle, gives the same documents."""
    mixed = open_corpus(f"mix:0.5*json:{folder}/a.json,0.5*json:{folder}/b.json")
    units = mixed.units()
    whole = [list(mixed.read("train", unit)) for unit in units]
    again = pickle.loads(pickle.dumps(open_corpus(mixed.spec)))
    for unit, documents in list(zip(units, whole, strict=True))[::-1]:
        assert list(again.read("train", unit)) == documents
        assert list(again.read("train", unit, skip=7)) == documents[7:]
    assert [d.text for documents in whole for d in documents] == list(mixed.documents())


def test_the_choice_depends_on_the_content_alone(folder, tmp_path_factory):
    """The same files in another folder give the same documents; other rates give another fingerprint."""
    spec = "mix:0.3*json:{0}/a.json,0.7*json:{0}/b.json"
    other = tmp_path_factory.mktemp("moved")
    for name in ("a.json", "b.json"):
        (other / name).write_bytes((folder / name).read_bytes())
    here, there = open_corpus(spec.format(folder)), open_corpus(spec.format(other))
    assert list(here.documents()) == list(there.documents())
    assert here.describe("train")["fingerprint"] == there.describe("train")["fingerprint"]
    changed = open_corpus(spec.format(folder).replace("0.3", "0.4"))
    assert changed.describe("train")["fingerprint"] != here.describe("train")["fingerprint"]


def test_mixtures_by_rates_can_be_nested(folder):
    """A part by rates may be a mixture itself; the units have the numbers of both."""
    inner = f"mix:0.5*json:{folder}/a.json,0.5*json:{folder}/b.json".replace(",", "\\,")
    mixed = open_corpus(f"mix:0.2*json:{folder}/c.json,0.8*{inner}")
    assert {unit.part for unit in mixed.units()} == {(0,), (1, 0), (1, 1)}
    sizes = {part: sum(map(len, documents)) for part, documents in documents_of(mixed).items()}
    share = sizes[f"json:{folder}/c.json"] / sum(sizes.values())
    assert share == pytest.approx(0.2, abs=0.03)
    assert list(open_corpus(mixed.spec).documents()) == list(mixed.documents())


@pytest.mark.parametrize(
    "spec, message",
    [
        ("mix:0.5*json:{0}/a.json,json:{0}/b.json", "all with a rate above 0, such as mix:0.7"),
        ("mix:0.5*json:{0}/a.json,2*json:{0}/b.json", "all with a rate above 0"),
        ("mix:0.0*json:{0}/a.json,1.0*json:{0}/b.json", "with a rate above 0"),
        ("mix:0.5*json:{0}/a.json,0.5*json:{0}/a.json", "names a corpus twice.*the sum of its rates"),
        ("mix:0.5*json:{0}/a.json,", "each with an optional weight"),
        ("mix:-1*json:{0}/a.json", r"'-1\*json:.*' was given; expected one of"),
        ("mix:0.5*json:{0}/a.json,0.5*jsn:{0}/b.json", "Did you mean json"),
    ],
)
def test_bad_mixtures_say_what_to_do(spec, message, folder):
    """Rates and repetitions cannot be mixed; other errors name the part."""
    with pytest.raises(InputError, match=message):
        open_corpus(spec.format(folder))


def test_rates_need_the_sizes(folder):
    """A part of unknown size, such as the standard input, cannot have a rate; the error says to give weights."""
    mixed = open_corpus(f"mix:0.5*json:{folder}/a.json,0.5*json:-")
    with pytest.raises(InputError, match=r"the size of json:- is not known.*Give whole numbers as weights"):
        mixed.units()


def test_commas_and_options_in_mixtures(tmp_path):
    """Commas between the parentheses of options and in quotes belong to the part."""
    (tmp_path / "a,json:b.json").write_text('{"a": "A", "b": "B"}')
    options = r'template="{{a}}, json:{{b}})",id=a'.format()
    spec = f"mix:2*json({options}):{tmp_path}/a\\,json:b.json,json(field=b):{tmp_path}/a,json:b.json"
    mixed = open_corpus(spec)
    assert [(d.text, d.id) for u in mixed.units() for d in mixed.read("train", u)] == [
        *2 * [(b"A, json:B)", "A")],
        (b"B", None),
    ]
    assert list(open_corpus(mixed.spec).documents()) == list(mixed.documents())
