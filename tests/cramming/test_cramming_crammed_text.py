"""Files of crammed texts give the text back, and refuse other models and damage."""

import dataclasses
import hashlib

import jax
import numpy as np
import pytest

from compressed_lm import weights
from compressed_lm.cramming import CramConfig, CrammedText, cram, crammed_text
from compressed_lm.errors import InputError

CONFIG = CramConfig(n_vectors=2, steps=150, learning_rate=0.05, margin=0.1)


@pytest.fixture(scope="module")
def fifty(model, texts):
    """Returns fifty texts of two to four tokens, and their results."""
    given = texts(*[2, 3, 4] * 16, 2, 3, seed=6)
    return given, cram(model, given, CONFIG, slots=64)


@pytest.fixture(scope="module")
def crammed(model, fifty):
    """Returns a text that fits, and its stored form."""
    ids, found = next((ids, f) for ids, f in zip(*fifty, strict=True) if f.complete)
    return ids, CrammedText.of(model, found, CONFIG, ids)


@pytest.fixture
def file(crammed, tmp_path):
    crammed[1].save(tmp_path / "text.clt")
    return tmp_path / "text.clt"


@pytest.mark.slow("trains vectors")
def test_fifty_texts_come_back_whenever_cramming_succeeds(model, fifty, tmp_path):
    """All texts reported as crammed are recovered from their files token for token.

    Other texts, and texts that a smaller format does not preserve, raise an error and never give another text.
    """
    outcomes = []
    for ids, f in zip(*fifty, strict=True):
        for form in ("dense", "int(b=3)"):
            stored = CrammedText.of(model, f, dataclasses.replace(CONFIG, format=form), ids)
            stored.save(path := tmp_path / "text.clt")
            loaded = CrammedText.load(path)
            assert loaded == stored
            if came_back := loaded.fits(model):
                assert loaded.write(model).tolist() == ids.tolist()
            else:
                with pytest.raises(InputError, match="generates another text"):
                    loaded.write(model)
            assert came_back or form != "dense" or not f.complete
            outcomes.append((form, f.complete, came_back))
    assert 15 <= outcomes.count(("dense", True, True)) < 50
    assert outcomes.count(("dense", False, False)) and outcomes.count(("int(b=3)", True, False))


def test_the_size_is_that_of_the_format(model, fifty, file):
    """Payload and file have the stated sizes; a smaller format makes a smaller file."""
    ids, found, bits = (
        fifty[0][0],
        fifty[1][0],
        {"dense": 32, "dense(dtype=bfloat16)": 16, "int(b=8)": 8.5, "int(b=2)": 2.5},
    )
    sizes = []
    for form, wanted in bits.items():
        stored = CrammedText.of(model, found, dataclasses.replace(CONFIG, format=form), ids)
        assert 8 * stored.packed.nbytes == 2 * 32 * wanted
        stored.save(file)
        sizes.append(file.stat().st_size - stored.packed.nbytes)
    assert max(sizes) < 300  # what a file has besides: header, fingerprints, checksums


def test_another_model_is_refused(model, crammed):
    """A model with one changed weight is refused, and the message says which model to give."""
    params = jax.tree.map(np.copy, model.params)
    params["final_norm"]["scale"][0] += 1e-3
    with pytest.raises(InputError, match="crammed for the model .* vectors do not work with any other model"):
        crammed[1].write(dataclasses.replace(model, params=params))


def test_another_text_is_never_returned(model, crammed):
    """If the model generates another text, an error is raised."""
    wrong = dataclasses.replace(crammed[1], text="00000000")
    with pytest.raises(InputError, match="generates another text: this device rounds differently"):
        wrong.write(model)


def test_damaged_files_are_refused(file):
    """A missing, foreign, truncated or changed file raises an error with its name."""
    content = file.read_bytes()
    with pytest.raises(InputError, match="cannot be read"):
        CrammedText.load(file.with_name("missing"))
    for damaged in (b"", b"text", content[:-1], content[: len(content) // 2], content + b"\0"):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="text.clt (is not a file of a crammed text|was truncated or changed)"):
            CrammedText.load(file)
    for i in range(0, len(content), 7):
        file.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        with pytest.raises(InputError, match="text.clt (is not a file of a crammed text|was truncated or changed)"):
            CrammedText.load(file)


def test_a_header_of_nonsense_is_refused(crammed, file):
    """A file with a correct checksum but inconsistent numbers is refused, and one of a later version, too."""
    for change in (dict(n_tokens=0), dict(mapping=dataclasses.replace(crammed[1].mapping, width=31))):
        dataclasses.replace(crammed[1], **change).save(file)
        with pytest.raises(InputError, match="has an invalid header"):
            CrammedText.load(file)
    learned = weights.PackedTensor("int(b=4,rule=lsq)", (2, 32), -1, b"\0" * 34)
    dataclasses.replace(crammed[1], packed=learned).save(file)
    with pytest.raises(InputError, match="header that cannot be read"):
        CrammedText.load(file)
    dataclasses.replace(crammed_text._FILE, version=2).write(file, {"tensors": []}, [])
    with pytest.raises(InputError, match="format version 2; this package reads version 1"):
        CrammedText.load(file)


def test_the_layout_is_the_documented_one(crammed, file):
    """Version 1: magic bytes at the beginning, SHA-256 of everything before it at the end."""
    content = file.read_bytes()
    assert content[:8] == b"\x89CLT\r\n\x1a\n" and hashlib.sha256(content[:-32]).digest() == content[-32:]
    assert crammed[1].packed.payload in content
