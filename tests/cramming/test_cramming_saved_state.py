"""Interrupted cramming resumes with the result that it would have had without the interruption."""

import dataclasses

import numpy as np
import pytest

from compressed_lm.cramming import CramConfig, cram, saved_state
from compressed_lm.errors import InputError

FULL = CramConfig(n_vectors=2, steps=120, learning_rate=0.05, patience=60)
GROWN = dataclasses.replace(
    FULL, method="progressive", crop=True, schedule="cosine", final_rate=0.001, warmup_steps=5, init="uniform"
)
LENGTHS = (3, 5, 6, 9, 4)


class Interrupted(Exception):
    pass


def interrupted(model, given, config, path, *, every=3):
    """Returns (result, interruptions) of cramming that is interrupted after every few calls of its progress."""
    calls = interruptions = 0

    def progress(_):
        nonlocal calls
        calls += 1
        if calls % every == 0:
            raise Interrupted

    while True:
        try:
            found = cram(model, given, config, slots=2, state=path, save_every=0, progress=progress)
            return found, interruptions
        except Interrupted:
            interruptions += 1


def same(a, b):
    """Returns whether two results are bit-identical."""
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))


@pytest.mark.parametrize(
    "config",
    [
        FULL,
        GROWN,
        pytest.param(
            dataclasses.replace(GROWN, dimensions=8, projection="learned"), marks=pytest.mark.slow("trains vectors")
        ),
        pytest.param(
            dataclasses.replace(GROWN, dimensions=8, projection="shared"), marks=pytest.mark.slow("trains vectors")
        ),
    ],
    ids=["full", "progressive", "learned", "shared"],
)
def test_resumed_cramming_has_the_same_result(model, texts, tmp_path, config):
    """Results and stages are bit-identical however often cramming is interrupted, also those of texts that wait."""
    given = texts(*LENGTHS)
    found, interruptions = interrupted(model, given, config, tmp_path / "state")
    assert interruptions > 4
    assert all(same(a, b) for a, b in zip(found, cram(model, given, config, slots=2), strict=True))


def test_a_finished_state_needs_no_step(model, texts, tmp_path):
    """From the state of finished cramming the results are read without another step."""
    given, path, calls = texts(*LENGTHS), tmp_path / "state", []
    found = cram(model, given, GROWN, slots=2, state=path)
    again = cram(model, given, GROWN, slots=2, state=path, progress=calls.append)
    assert not calls and all(same(a, b) for a, b in zip(found, again, strict=True))


def test_the_progress_of_a_state_is_shown(model, texts, tmp_path):
    """The summary has the scores and steps of stopped and of running texts."""
    given, path, seen = texts(*LENGTHS), tmp_path / "state", []

    def stop(status):
        seen.append(status)
        if status.finished == 3:
            raise Interrupted

    config = dataclasses.replace(GROWN, crop=False)
    with pytest.raises(Interrupted):
        cram(model, given, config, slots=2, state=path, save_every=0, progress=stop)
    found = cram(model, given, config, slots=2)
    rows = saved_state.summary(path)
    assert sum(row["stopped"] for row in rows) == 2  # the third is stored with the next state
    for row in rows:
        whole = found[row["text"]]
        expected = (whole.score, whole.steps) if row["stopped"] else (row["score"], row["steps"])
        assert (row["score"], row["steps"]) == expected and row["score"] <= whole.score and row["steps"] <= whole.steps
    cram(model, given, config, slots=2, state=path)
    assert [(row["score"], row["steps"]) for row in saved_state.summary(path)] == [(f.score, f.steps) for f in found]


def test_a_state_of_something_else_is_refused(model, texts, tmp_path):
    """A state is not continued with other texts, settings, seeds or another model; the message names what differs."""
    given, path = texts(2, 3), tmp_path / "state"
    short = dataclasses.replace(FULL, steps=2)
    cram(model, given, short, state=path)
    other = dataclasses.replace(model, eod_id=3, codec_fingerprint="another")
    for arguments, seeds, what in (
        ((model, given[::-1], short), None, "texts"),
        ((model, given, dataclasses.replace(short, b2=0.95)), None, "config"),
        ((model, given, short), [0, 1], "seeds"),
        ((other, given, short), None, "model"),
    ):
        with pytest.raises(InputError, match=rf"of a cramming that differs in its {what}\. Give the original"):
            cram(*arguments, seeds=seeds, state=path)


def test_a_damaged_state_is_refused(model, texts, tmp_path):
    """A changed byte, a file of another kind and a header of another program are reported, and nothing is executed."""
    given, path = texts(2, 3), tmp_path / "state"
    short = dataclasses.replace(FULL, steps=2)
    cram(model, given, short, state=path)
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(InputError, match="truncated or changed|checksum"):
        cram(model, given, short, state=path)
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match="unfinished cramming"):
        cram(model, given, short, state=path)
    file = saved_state.StateFile(path, model, given, short, [0, 0])
    for changed in (dict(owners=[0, 0]), dict(owners=[7]), dict(owners=[0], waiting=[1], length=10**9), dict(found=3)):
        base = dict(key=file._key, owners=[], waiting=[], length=4, found=[], stages=[], tensors=[])
        saved_state._FILE.write(path, base | changed, [])
        with pytest.raises(InputError, match="has an invalid state"):
            cram(model, given, short, state=path)
