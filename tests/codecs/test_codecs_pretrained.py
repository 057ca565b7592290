"""The codecs and the M1 that come with the package."""

import hashlib
import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.codecs.window_rules import WindowRules
from compressed_lm.coding import tables
from compressed_lm.coding.pieces import Pieces
from compressed_lm.exact import device
from compressed_lm.pipelines import m1 as m1_model

TEXT = (
    b"There was a smell of rain in the air, and nobody in the house could say when it would end. In 1905 the "
    b"committee of the university published its report on the history of the railway; it was read by no one.\n"
) * 3


@pytest.fixture(scope="module")
def m1():
    return m1_model.load_m1(m1_model.PRETRAINED)


def test_shipped_dictionaries_work_out_of_the_box():
    """Each shipped codec loads, shows its kind, and round-trips any bytes without M1."""
    assert list(codecs.shipped()) == ["eiw16-en", "eiw16-word-en", "pieces16-en"]
    for name in codecs.shipped():
        codec = codecs.load(name)
        assert (codec.vocab_size, codec.flops_per_byte, getattr(codec, "m1", None)) == (65536, 0.0, None)
        hostile = TEXT + bytes(range(256)) + b"\xff" * 50
        assert codec.decode(codec.encode(hostile)) == hostile
        assert len(TEXT) / len(codec.encode(TEXT)) > 3.5


def test_shipped_codecs_load_without_jax():
    """A process that only tokenises imports neither JAX nor TensorFlow."""
    program = (
        "import sys; from compressed_lm import codecs\n"
        "for c in map(codecs.load, codecs.shipped()): assert c.decode(c.encode(b'no network')) == b'no network'\n"
        "print([m for m in ('jax', 'flax', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow("codes texts with the M1 that ships")
def test_shipped_m1_gives_its_golden_tables(m1, exact_numpy):
    """The tables of the shipped M1 equal the golden ones and those of the NumPy implementation, bit for bit."""
    texts = np.frombuffer(TEXT[:256], np.uint8).reshape(4, 64)[:, :40]
    freqs = m1.byte_frequencies(texts).astype("<u4")
    digest = hashlib.sha256(freqs.tobytes()).hexdigest()
    assert (m1.hash[:16], digest[:16]) == ("ff5e166759adb159", "23dd32efc4d78e20")
    inputs = np.pad(texts.astype(np.int32), ((0, 0), (1, 0)), constant_values=256)
    logits = exact_numpy.logits(m1.params, m1.config, inputs, check_bounds=True)[:, -1, :256]
    weights = np.asarray(device.weights_of(logits.astype(np.int32)))
    np.testing.assert_array_equal(tables.frequencies(weights), freqs)


@pytest.mark.slow("codes texts with the M1 that ships")
def test_delay_is_lossless_where_codes_come_back(m1):
    """Along " in the air" a window's code appears twice; the window must end at its first appearance."""
    rules = WindowRules(16, "delay", "none", 1, 64)
    texts = [TEXT, b" in the air", b" the air in the air"]
    assert m1.engine.decode_windows(list(m1.engine.encode_windows(texts, rules)), rules) == texts


@pytest.mark.slow("codes texts with the M1 that ships")
def test_ids_of_english_are_those_of_version_1(tmp_path):
    """A vocabulary of rules 1 loads with its old fingerprint.

    It and the shipped vocabulary give the same ids for English, and decode each other's ids; other text may be encoded
    differently.
    """
    shipped = codecs.load("pieces16-en")
    old = type(shipped)(
        Pieces(shipped.pieces.strings, shipped.pieces.costs, shipped.pieces.spaced, rules=1), marks="within"
    )
    codecs.save(old, tmp_path)
    old = codecs.load(tmp_path)
    assert (old.fingerprint[:12], shipped.fingerprint[:12]) == ("2b7253111411", "c1a821064829")
    assert np.array_equal(old.encode(TEXT), shipped.encode(TEXT)) and old.pieces.rules == 1
    capitals = b"ACGT" * 100
    assert len(shipped.encode(capitals)) < 0.4 * len(old.encode(capitals))
    for one, other in ((old, shipped), (shipped, old)):
        assert other.decode(one.encode(capitals)) == capitals


def test_shipped_codecs_take_text_that_nobody_would_write(monkeypatch):
    """More than 30 kinds of hostile text round-trip with at most 1.05 ids per byte."""
    folder = pathlib.Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    benchmark = runpy.run_path(str(folder / "adversarial.py"))
    kinds = benchmark["kinds"](TEXT * 30, 4000)
    for left_out in ("collisions of a fixed hash", "words by Zipf's law"):  # which take seconds to make
        del kinds[left_out]
    texts = {kind: benchmark["filled"](make(), 4000) for kind, make in kinds.items()}
    assert len(texts) >= 30
    for codec in map(codecs.load, codecs.shipped()):
        for kind, text in texts.items():
            ids = codec.encode(text)
            assert codec.decode(ids) == text and len(ids) <= 1.05 * len(text), kind
