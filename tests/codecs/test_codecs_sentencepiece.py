"""SentencePiece learns characters that its own trainer loses: line ends, tabs, and the sign for unknown text."""

import hashlib
import io
import random

import pytest
import sentencepiece

from compressed_lm.codecs.sentencepiece_codec import SentencePiece

WORDS = ["".join(random.Random(i).choices("abcdefghijklmnop", k=5)) for i in range(200)]
LINES = "".join(f"One {a} ends.\n\nTwo\n{a} says:\t\tyes\t\tno ▅▅\r\n\r\n" for a in WORDS).encode()
KINDS = {
    "line feed": b"One.\n\nTwo\n",
    "carriage return": b"ends.\r\n\r\n",
    "tab": b"yes\t\tno",
    "block": "no ▅▅".encode(),
}


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def codec(request):
    return SentencePiece.build(v=400, model=request.param, documents=[LINES])


@pytest.mark.parametrize("kind", KINDS)
def test_the_trainer_loses_no_character(codec, kind):
    """Line feeds, carriage returns, tabs and the trainer's own sign are inside learned pieces."""
    tokens = [codec.token(int(i)) for i in codec.encode(KINDS[kind])]
    assert not [token for token in tokens if token.startswith("<0x")]
    assert "".join(tokens).replace("▁", " ").encode() == KINDS[kind]


@pytest.mark.parametrize("character", [b"\n", b"\r", b"\t"])
def test_line_ends_and_tabs_join_what_stands_beside_them(codec, character):
    """Some piece has a line end or a tab together with another character."""
    pieces = [codec.decode([i]) for i in range(codec.vocab_size)]
    assert any(character in piece and piece != character for piece in pieces)


@pytest.mark.parametrize(
    "character", ["\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "▁", "\x00", "\ufffd", "\x0b", "\f", "\x85"]
)
def test_characters_that_stand_for_others_come_back(codec, character):
    """Text with the replacement characters of training and other control characters is lossless.

    Training on it makes no piece that decodes to another character.
    """
    text = f"a{character}\n{character}{character} b\t{character}".encode()
    assert codec.decode(codec.encode(text)) == text
    taught = SentencePiece.build(v=400, model="bpe", documents=[LINES, text * 200])
    assert taught.decode(taught.encode(text)) == text
    assert b"\n" not in b"".join(taught.decode([i]) for i in taught.encode(character.encode()))


def test_a_saved_model_of_an_older_version_keeps_its_ids():
    """A model of version 0.1.0, trained on lines, keeps its fingerprint and encodes line feeds in bytes."""
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES.decode().replace("▅", "").splitlines(keepends=True)),
        model_writer=content,
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    model = content.getvalue()
    old = SentencePiece.from_files({"sentencepiece.model": model}, v=400)
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert old.encode(b"One abc ends.\n\n").tolist() == reference.encode("One abc ends.\n\n")
    assert [old.token(int(i)) for i in old.encode(b"\n\t")] == ["<0x0A>", "\t"]
    assert old.fingerprint == hashlib.sha256(b"compressed_lm sentencepiece 1" + model).hexdigest()
