"""Vocabularies without tokens for some bytes: escapes are lossless, and refusals name the byte."""

import json

import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.codecs import byte_escape
from compressed_lm.codecs.streaming import StreamDecoder
from compressed_lm.codecs.tokenizers_codec import Tokenizers
from compressed_lm.errors import InputError

tokenizers = pytest.importorskip("tokenizers")

END, SPARE = "<|im_end|>", "<|reserved_0|>"
TEXT = "The theme of the text, in 1905: Grüße, これはテキスト and naïve cafés; 0xdeadbeef. " * 20
MISSING = (0x04, 0x06, 0xC0, 0xC1, 0xF1, 0xF2, 0xF5, 0xFF)
HOSTILE = [
    b"",
    *(bytes([b]) for b in range(256)),
    bytes(range(256)) * 3,
    b"plain text \x04 and \x06\x06 controls",
    "a character of plane 4: \U00040000, and of plane 3: \U00030000".encode(),
    f"A text that spells {SPARE}04 and {END}".encode(),
    np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint8).tobytes(),
]


def table(*, special=(END, SPARE), missing=MISSING):
    """Returns a tokenizer.json like SmolLM's: digits alone, byte-level BPE, no token for some bytes."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    parts = tokenizers.pre_tokenizers
    made.pre_tokenizer = parts.Sequence([parts.Digits(individual_digits=True), parts.ByteLevel(add_prefix_space=False)])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(special),
        initial_alphabet=parts.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    content = json.loads(made.to_str())
    from compressed_lm.codecs.tokenizer_json import bytes_of_symbols

    lost = {symbol for symbol, byte in bytes_of_symbols().items() if byte in missing}
    kept = [token for token in content["model"]["vocab"] if not lost & set(token)]
    content["model"]["vocab"] = {token: i for i, token in enumerate(kept)}
    return json.dumps(content).encode()


@pytest.fixture(scope="module")
def content():
    return table()


@pytest.fixture(scope="module")
def codec(content):
    return codecs.read_tokenizer({"tokenizer.json": content}, eod=0)


def test_every_byte_string_comes_back(codec, tmp_path):
    """Texts with missing bytes round-trip, also with the saved codec; lengths add up; no text has end-of-document."""
    codecs.save(codec, tmp_path)
    loaded = codecs.load(tmp_path)
    assert codec.spec == f"tokenizers(eod=0,missing_bytes=escape,v={codec.vocab_size})"
    assert (loaded.spec, loaded.fingerprint, loaded.missing) == (codec.spec, codec.fingerprint, bytes(MISSING))
    for document, ids in zip(HOSTILE, codec.encode_batch(HOSTILE), strict=True):
        assert loaded.decode(ids) == document and codec.eod_id not in ids
        assert codec.token_byte_lengths(ids).sum() == len(document)
        assert codec.decode_partial(ids) == document


def test_ids_of_other_text_are_the_tokenizers(codec, content):
    """A text without missing bytes has exactly the tokenizer's ids, and its neighbour's escapes change none of them."""
    theirs = tokenizers.Tokenizer.from_str(content.decode()).encode(TEXT, add_special_tokens=False).ids
    assert codec.encode(TEXT.encode()).tolist() == theirs and codec.token(1) == SPARE
    both = codec.encode(TEXT.encode() + b"\x04" + TEXT.encode()).tolist()
    assert both[: len(theirs)] == theirs and both[-len(theirs) :] == theirs and len(both) == 2 * len(theirs) + 3


def test_sampled_escapes_decode(codec):
    """An escape token without two digits has no bytes, wherever it is; with two digits it is one byte."""
    spare, zero, four, g, f = 1, *(int(codec.encode(c)[0]) for c in (b"0", b"4", b"g", b"f"))
    assert codec.decode([spare, zero, four]) == b"\x04"
    assert codec.decode([spare, f, f, spare, zero, four, g]) == b"\xff\x04g"
    assert codec.decode([spare, g, four, spare, spare, zero, four, zero]) == b"g4\x040"
    assert codec.decode([g, spare, zero]) == b"g0" and codec.decode([spare]) == b""
    assert codec.decode([spare, zero, spare, four]) == b"04"
    assert codec.token_byte_lengths([spare, zero, four, g, spare, zero]).tolist() == [0, 0, 1, 1, 0, 1]


def test_any_ids_stream_as_they_decode(codec):
    """Text of a stream never changes, and in the end it is that of all ids, for random ids with many escapes."""
    draw = np.random.default_rng(1)
    likely = np.array([1, 1, 1, *(int(codec.encode(c)[0]) for c in (b"0", b"4", b"f", b"a", b"z", b"\xe3"))])
    for _ in range(200):
        ids = draw.choice(likely, 12)
        decoder, shown = StreamDecoder(codec), b""
        for i, one in enumerate(ids):
            shown += decoder.feed_bytes([one])
            assert codec.decode(ids[: i + 1]).startswith(shown)
        assert codec.decode(ids).startswith(codec.decode_partial(ids)) and shown == codec.decode_partial(ids)
        assert codec.token_byte_lengths(ids).sum() == len(codec.decode(ids))


def test_refusal_names_the_byte_and_its_position(content, codec, tmp_path):
    """With missing_bytes=refuse, text without those bytes has the same ids, and other text an error."""
    refusing = codecs.read_tokenizer({"tokenizer.json": content}, eod=0, missing_bytes="refuse")
    assert refusing.encode(TEXT.encode()).tolist() == codec.encode(TEXT.encode()).tolist()
    with pytest.raises(InputError, match=r"no token for the byte 6 \(0x06\), which is at position 2 of document 1"):
        refusing.encode_batch([b"fine", b"ab\x06\x04"])
    codecs.save(refusing, tmp_path)
    assert codecs.load(tmp_path).fingerprint == refusing.fingerprint != codec.fingerprint
    assert refusing.restart_tokens == 1 and codec.restart_tokens is None
    with pytest.raises(InputError, match="no token for 8 of the 256 bytes .the first is 4.*missing_bytes=escape"):
        Tokenizers(v=0, eod=0, tokenizer=content)


def test_the_escape_is_a_free_special_token():
    """Spare tokens come first; end-of-document and tokens of chats are never used; without others it is refused."""
    choose = lambda special, eod=0: byte_escape.choose(special, range(16), eod, "it").token  # noqa: E731
    assert choose({"<|endoftext|>": 0, "<|im_end|>": 5, "<repo>": 3, "<file>": 4}) == 4
    assert choose({"<unused0>": 2, "<unused1>": 3, "<repo>": 9}) == 3
    assert choose({"<a>": 1, "<b>": 2}, eod=2) == 1
    for special in ({"<|im_end|>": 5, "<pad>": 6}, {"<a>": 0}, {}):
        with pytest.raises(InputError, match="no special token that is free for it.*missing_bytes=refuse"):
            choose(special)
    with pytest.raises(InputError, match="not a token for each hexadecimal digit"):
        byte_escape.choose({"<a>": 1}, [None] * 16, 0, "it")


def test_lost_characters_are_those_with_a_missing_byte():
    """The pattern agrees with UTF-8 for every character."""
    pattern = byte_escape.lost_characters((0x04, 0xBF, 0xC3, 0xF1))
    for point in [*range(0, 0x3000), *range(0xD7F0, 0xE010), *range(0xFF00, 0x50000, 7)]:
        if 0xD800 <= point < 0xE000:
            continue
        lost = bool({0x04, 0xBF, 0xC3, 0xF1} & set(chr(point).encode()))
        assert (len(pattern.findall(chr(point) + ("a" if lost else "\x04"))) == 2) and pattern.match(chr(point))


def test_a_complete_vocabulary_is_as_before():
    """Without missing bytes, the option changes neither the spec nor the fingerprint."""
    complete = table(missing=())
    found = [codecs.read_tokenizer({"tokenizer.json": complete}, eod=0, missing_bytes=m) for m in ("escape", "refuse")]
    assert {c.spec for c in found} == {f"tokenizers(eod=0,v={found[0].vocab_size})"}
    assert len({c.fingerprint for c in found}) == 1 and found[0].restart_tokens == 1
