"""The tokenizer is called once per distinct run of valid text."""

import random

import numpy as np
import pytest

from compressed_lm.codecs.sentencepiece_codec import SentencePiece
from compressed_lm.codecs.tokenizers_codec import BPE

WORDS = ["".join(random.Random(i).choices("abcdefghijklmnop", k=5)) for i in range(300)]
LINES = " ".join(WORDS * 3).encode()


class Counting:
    """Tokenizer that counts its texts."""

    def __init__(self, tokenizer):
        self.tokenizer, self.texts = tokenizer, 0

    def encode_batch(self, texts, **settings):
        self.texts += len(texts)
        return self.tokenizer.encode_batch(texts, **settings)

    def encode(self, texts):
        self.texts += len(texts)
        return self.tokenizer.encode(texts)


@pytest.fixture(scope="module", params=[BPE, SentencePiece])
def codec(request):
    return request.param.build(v=400, documents=[LINES])


@pytest.mark.parametrize("text", [b"a\xff", b"ab\xff\xfec\xc3", b"\xffa\xffb\xffc"])
def test_runs_between_invalid_bytes_are_encoded_once(codec, text, monkeypatch):
    """If every second byte of 20,000 is invalid, the tokenizer gets each distinct run once."""
    name = "_tokenizer" if isinstance(codec, BPE) else "_processor"
    counting = Counting(getattr(codec, name))
    monkeypatch.setattr(codec, name, counting)
    long = text * (20_000 // len(text))
    ids = codec.encode(long)
    assert codec.decode(ids) == long and counting.texts <= 3
    alone = [codec.encode(text[i : i + 1]) for i in range(len(text))]
    if len(text) == 2:
        assert np.array_equal(ids, np.tile(np.concatenate(alone), 10_000))


def test_batches_and_single_documents_agree(codec):
    """Documents with common runs have the same ids in a batch and alone, including empty and invalid ones."""
    documents = [b"", b"\xff" * 9, LINES[:99], b"a\xff" + LINES[:50] + b"\xff", LINES[:99]]
    ids = codec.encode_batch(documents)
    assert codec.decode_batch(ids) == documents
    assert all(np.array_equal(i, codec.encode(d)) and i.dtype == np.int32 for i, d in zip(ids, documents, strict=True))
