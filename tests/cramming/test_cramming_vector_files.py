"""Files of vectors give back what was crammed, and nothing else is read from them."""

import dataclasses

import numpy as np
import pytest

from compressed_lm.cramming import CramConfig, cram, vector_files
from compressed_lm.errors import InputError

CONFIG = CramConfig(n_vectors=2, steps=60, learning_rate=0.05, method="progressive", format="int(b=8)")


def test_files_have_the_vectors_of_texts_and_stages(model, texts, tmp_path, monkeypatch):
    """Numbers, vectors and stages are stored exactly; too many stages are left out, the vectors are not."""
    found = cram(model, texts(3, 4), CONFIG)
    vector_files.write_all(tmp_path / "all.npz", found)
    arrays = vector_files.read(tmp_path / "all.npz")
    assert set(arrays) == {f"{i}/{name}" for i in range(2) for name in vector_files.NAMES}
    for i, each in enumerate(found):
        assert all(np.array_equal(arrays[f"{i}/{name}"], getattr(each, name)) for name in vector_files.NAMES)
    vector_files.write(tmp_path / "one.npz", found[0])
    assert np.array_equal(vector_files.read(tmp_path / "one.npz")["vectors"], found[0].vectors)
    monkeypatch.setattr(vector_files, "MOST_BYTES", sum(f.numbers.nbytes + f.vectors.nbytes for f in found) + 64)
    vector_files.write_all(tmp_path / "all.npz", found)
    assert not any("stage_numbers" in name for name in vector_files.read(tmp_path / "all.npz"))


def test_other_files_are_refused(tmp_path):
    """Objects, other arrays and other files raise an error that says what was expected."""
    path = tmp_path / "x.npz"
    np.savez(path, vectors=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="is not a file of crammed vectors"):
        vector_files.read(path)
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(InputError, match="has the array weights; expected only numbers, vectors"):
        vector_files.read(path)
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match="is not a file of crammed vectors"):
        vector_files.read(path)


def test_stages_restore_as_many_tokens_as_they_say(model, texts):
    """Scores of stages increase to the result's; the numbers of a stage have its longest exact prefix."""
    from compressed_lm.cramming import quantized, write

    given = texts(5, 8, seed=2)
    for ids, each in zip(given, cram(model, given, dataclasses.replace(CONFIG, steps=200, crop=True)), strict=True):
        scores = each.stage_scores.tolist()
        assert scores == sorted(set(scores)) and scores[-1] == each.score > 1
        np.testing.assert_array_equal(each.stage_numbers[-1], each.numbers)
        for score, numbers in zip(scores, each.stage_numbers, strict=True):
            (own,) = write(model, [quantized(numbers, CONFIG.format)], [len(ids)])
            assert own[:score].tolist() == ids[:score].tolist()
