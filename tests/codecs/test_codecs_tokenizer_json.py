"""Kinds of tokenizer.json that models come with have the reference's ids and lose no byte."""

import io
import json

import numpy as np
import pytest
import sentencepiece

from compressed_lm import codecs
from compressed_lm.errors import InputError

tokenizers = pytest.importorskip("tokenizers")

TEXT = "def run(self):\n    return 'it''s' # 1234567, Grüße, これはテキスト\n\n\nHe'll   come </s> at 5.\t\r\n" * 20
PARTS = tokenizers.pre_tokenizers
ISOLATED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
KINDS = {
    "SmolLM": [PARTS.Digits(individual_digits=True), PARTS.ByteLevel(add_prefix_space=False)],
    "Llama 3": [
        PARTS.Split(tokenizers.Regex(ISOLATED), "isolated"),
        PARTS.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "StarCoder": [PARTS.Punctuation(), PARTS.ByteLevel(add_prefix_space=False, trim_offsets=True)],
}
HOSTILE = [
    b"",
    bytes(range(256)) * 2,
    "a ▁ b ▁▁ c cafe\u0301 <0x0A> <unk> </s>  x".encode(),
    b" leading and trailing  ",
    "日本語".encode()[:-1] + b"\xed\xa0\x80\xc0\xaf",
    np.random.default_rng(0).integers(0, 256, 2000).astype(np.uint8).tobytes(),
]


def byte_level(parts, **changes):
    """Returns a byte-level tokenizer.json."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = PARTS.Sequence(parts)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=PARTS.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    made.add_tokens([tokenizers.AddedToken("    ", normalized=False), tokenizers.AddedToken("</s>", rstrip=True)])
    content = json.loads(made.to_str())
    content["model"] |= changes
    return json.dumps(content)


def of(content, eod=0, **files):
    return codecs.read_tokenizer({"tokenizer.json": content.encode(), **files}, eod=eod)


@pytest.mark.parametrize("ignore_merges", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_byte_level_kinds(kind, ignore_merges):
    """Sequences of pre-tokenizers, ignore_merges and added tokens give the ids of the package `tokenizers`."""
    content = byte_level(KINDS[kind], ignore_merges=ignore_merges)
    codec, text = of(content), TEXT.replace("</s> ", "</s>")
    assert codec.encode(text.encode()).tolist() == tokenizers.Tokenizer.from_str(content).encode(text).ids
    assert codec.decode_batch(codec.encode_batch(HOSTILE)) == HOSTILE


def test_added_tokens_take_no_white_space_away():
    """White space after an added token, which the reference drops, is kept, and the rest of the text has its ids."""
    codec = of(byte_level(KINDS["SmolLM"]))
    ids = codec.encode(TEXT.encode())
    assert codec.decode(ids) == TEXT.encode() and len(ids) < 0.6 * len(TEXT.encode())
    end = int(codec.encode(b"</s>")[0])
    assert (ids == end).sum() == 20
    ends_documents = of(byte_level(KINDS["SmolLM"]), eod=end)
    ids = ends_documents.encode(TEXT.encode())
    assert end not in ids and ends_documents.decode(ids) == TEXT.encode() and len(ids) < 0.6 * len(TEXT.encode())


def byte_fallback(**changes):
    """Returns a tokenizer.json like Gemma's, of merges that SentencePiece learned."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=out,
        vocab_size=360,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        minloglevel=2,
        user_defined_symbols=["\n\n"],
        **dict(unk_id=0, bos_id=1, eos_id=2),
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    vocab = {processor.id_to_piece(i): i for i in range(processor.vocab_size())}
    merges = sorted(
        ((vocab[a + b], (a, b)) for token in vocab for k in range(1, len(token))
         if (a := token[:k]) in vocab and (b := token[k:]) in vocab),
    )  # fmt: skip
    added = [
        dict(id=i, content=token, single_word=False, lstrip=False, rstrip=False, normalized=False, special=i < 3)
        for token, i in vocab.items()
        if i < 4
    ]
    return json.dumps(
        dict(
            version="1.0",
            truncation=None,
            padding=None,
            added_tokens=added,
            normalizer=dict(type="Replace", pattern=dict(String=" "), content="▁"),
            pre_tokenizer=dict(type="Split", pattern=dict(String=" "), behavior="MergedWithPrevious", invert=False),
            post_processor=None,
            decoder=None,
            model=dict(
                type="BPE",
                dropout=None,
                unk_token="<unk>",
                continuing_subword_prefix=None,
                end_of_word_suffix=None,
                fuse_unk=True,
                byte_fallback=True,
                ignore_merges=False,
                vocab=vocab,
                merges=[list(pair) for _, pair in merges],
            ),
        )
        | changes
    )


def test_byte_fallback_as_gemma_has_it(tmp_path):
    """BPE with tokens such as <0x0A> has the reference's ids, loses no byte, and spaces are spaces again."""
    content = byte_fallback()
    codec, reference = of(content, eod=2), tokenizers.Tokenizer.from_str(content)
    reference.encode_special_tokens = True
    for text in (TEXT, " a", "a  \n\n\n b", "x"):
        assert codec.encode(text.encode()).tolist() == reference.encode(text).ids
    codecs.save(codec, tmp_path)
    loaded = codecs.load(tmp_path)
    encoded = codec.encode_batch(HOSTILE)
    assert loaded.fingerprint == codec.fingerprint and loaded.decode_batch(encoded) == HOSTILE
    for document, ids in zip(HOSTILE, encoded, strict=True):
        assert codec.token_byte_lengths(ids).sum() == len(document) and 2 not in ids
    assert codec.decode([codec._tokenizer.token_to_id("<0x0A>")]) == b"\n" and codec.token(3) == "\n\n"


def test_spaces_before_texts_are_left_out():
    """Ways to put a space before every text (Llama 2's) become none, and the ids are otherwise the same."""
    replace = dict(type="Replace", pattern=dict(String=" "), content="▁")
    prepending = dict(type="Sequence", normalizers=[dict(type="Prepend", prepend="▁"), replace])
    metaspace = dict(type="Metaspace", replacement="▁", prepend_scheme="first", split=False)
    wanted = of(byte_fallback(), eod=2).encode(TEXT.encode()).tolist()
    for changes in (
        dict(normalizer=prepending, pre_tokenizer=None),
        dict(normalizer=None, pre_tokenizer=metaspace),
    ):
        assert of(byte_fallback(**changes), eod=2).encode(TEXT.encode()).tolist() == wanted


def test_steps_that_lose_text_are_refused():
    """Pre-tokenizers that remove text, and normalizers that change it, are named."""
    with pytest.raises(InputError, match="pre_tokenizer Whitespace .it removes text."):
        of(byte_level([PARTS.Whitespace(), PARTS.ByteLevel(add_prefix_space=False)]))
    with pytest.raises(InputError, match="pre_tokenizer Split .it removes text."):
        of(byte_level([PARTS.Split(" ", "removed"), PARTS.ByteLevel(add_prefix_space=False)]))
    with pytest.raises(InputError, match="normalizer NFKC .it changes text."):
        of(byte_fallback(normalizer=dict(type="NFKC")), eod=2)
