"""The strict JSON parser returns an object or raises an error with the reason."""

import pytest

from compressed_lm import codecs, training
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.io import strict_json
from compressed_lm.models.safetensors_files import Tensors
from compressed_lm.post_training.huggingface import import_run

WRONG = {
    "deep": "[" * 200_000,
    "deep object": '{"a":' * 200_000,
    "list": "[]",
    "number": "7",
    "null": "null",
    "infinity": '{"a": Infinity}',
    "nan": '{"a": [NaN]}',
    "not utf-8": b'{"a": "\xff"}',
    "empty": "",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_what_is_no_object_is_refused(text):
    """Lists, NaN, deep nesting and invalid text raise ValueError; an object is returned."""
    with pytest.raises(ValueError, match="."):
        strict_json.parse(text)
    assert strict_json.parse('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_folders_of_strangers_end_in_an_error_of_input(text, tmp_path):
    """Codecs, stores, runs and Hugging Face checkpoints with invalid JSON raise InputError."""
    content = text if isinstance(text, bytes) else text.encode()
    for name in ("codec.json", "manifest.json", "config.json", "model.safetensors.index.json"):
        (tmp_path / name).write_bytes(content)
    readers = [
        lambda: codecs.load(tmp_path),
        lambda: TokenStore.open(tmp_path),
        lambda: training.load_run(tmp_path),
        lambda: import_run(tmp_path, out=tmp_path / "out"),
        lambda: Tensors(tmp_path),
    ]
    for read in readers:
        with pytest.raises(InputError):
            read()
