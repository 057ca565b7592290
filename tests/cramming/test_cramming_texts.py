"""Texts of fixed lengths, drawn from documents, words and ids."""

import collections

import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.cramming.texts import frequent_words, natural, random_tokens, random_words
from compressed_lm.errors import InputError

DOCUMENTS = [b"One sentence is here. Another one follows it! And a third? The last is long enough, too." * 3, b"short."]


def test_natural_texts_begin_with_sentences():
    """Each text begins with a sentence of a document and has the requested length; all are distinct.

    A shorter draw gives the beginnings.
    """
    codec = Bytes()
    texts = natural(DOCUMENTS, codec, n_tokens=20, n_texts=6, seed=1)
    starts = (b"One sent", b"Another ", b"And a th", b"The last")
    assert all(len(ids) == 20 and codec.decode(ids) in DOCUMENTS[0] for ids in texts)
    assert all(codec.decode(ids).startswith(starts) for ids in texts)
    assert len(texts) == 6 and len({codec.decode(ids)[:8] for ids in texts}) > 1
    shorter = natural(DOCUMENTS, codec, n_tokens=9, n_texts=6, seed=1)
    assert [ids.tolist() for ids in shorter] == [ids[:9].tolist() for ids in texts]
    other = natural(DOCUMENTS, codec, n_tokens=20, n_texts=6, seed=2)
    assert [ids.tolist() for ids in other] != [ids.tolist() for ids in texts]
    with pytest.raises(InputError, match="99 texts of 20 tokens were requested, and the 2 documents have"):
        natural(DOCUMENTS, codec, n_tokens=20, n_texts=99)


def test_texts_of_a_codec_whose_tokens_have_no_length_of_their_own():
    """Texts also have the requested number of tokens with windows of arithmetic coding.

    The tokens are those of the document from a sentence on.
    """
    codec = codecs.load("eiw16-en")
    for ids in natural(DOCUMENTS, codec, n_tokens=12, n_texts=3):
        text = codec.decode_partial(ids)
        assert len(ids) == 12 and text in DOCUMENTS[0] and ids.tolist() == codec.encode(text + b" more")[:12].tolist()


def test_the_list_of_words_is_by_frequency():
    """Words are counted in lower case over all documents; ties are sorted alphabetically."""
    documents = [b"The cat, the dog; THE bird's 12 eggs", b"dog. bird's"]
    assert frequent_words(documents) == [b"the", b"bird's", b"dog", b"cat", b"eggs"]
    assert frequent_words(documents, 2) == [b"the", b"bird's"]
    with pytest.raises(InputError, match="have no word"):
        frequent_words([b"1 2 3"])


def test_random_words_are_uniform_whatever_their_frequency():
    """All words of the list are equally likely and separated by spaces.

    Each text has its own draws, and a shorter one is a beginning.
    """
    codec, words = Bytes(), [b"a", b"bb", b"cc"]
    texts = random_words(words, codec, n_tokens=600, n_texts=2, seed=3)
    counts = collections.Counter(codec.decode(np.concatenate(texts)).split())
    assert all(abs(counts[word] / sum(counts.values()) - 1 / 3) < 0.06 for word in words)
    assert texts[0].tolist() != texts[1].tolist()
    shorter = random_words(words, codec, n_tokens=30, n_texts=1, seed=3)
    assert shorter[0].tolist() == texts[0][:30].tolist()


def test_random_tokens_cover_the_vocabulary():
    """All ids of the codec occur, and no others; texts are nested and independent."""
    texts = random_tokens(Bytes(), n_tokens=4000, n_texts=2, seed=4)
    assert set(texts[0].tolist()) == set(range(256)) and texts[0].tolist() != texts[1].tolist()
    assert random_tokens(Bytes(), n_tokens=5, n_texts=1, seed=4)[0].tolist() == texts[0][:5].tolist()
