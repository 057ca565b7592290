"""Tokenizers that came with a model are lossless and give the model's ids."""

import inspect
import io
import json

import numpy as np
import pytest
import sentencepiece

from compressed_lm import codecs
from compressed_lm.codecs.sentencepiece_codec import SentencePiece
from compressed_lm.codecs.tokenizers_codec import Tokenizers
from compressed_lm.errors import InputError

tokenizers = pytest.importorskip("tokenizers")

TEXT = inspect.getsource(inspect) + "Grüße, これはテキスト naïve cafés. " * 20
END = "<|endoftext|>"
HOSTILE = [
    b"",
    *(bytes([b]) for b in range(256)),
    b"\xff" * 50 + b"text" + b" " * 40 + b"\t\r\n" * 9,
    "Grüße, これはテキスト▁です\x00 \ufffd naïve cafe\u0301 \u1e9b\u0323".encode(),  # the last two are not in NFC
    "日本語".encode()[:-1] + b"\xed\xa0\x80\xc0\xaf",
    f"A text that spells {END} and <|padding|>,   and    indents.".encode(),
    np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint8).tobytes(),
]


def trained(**settings):
    """Returns a SentencePiece model."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=out,
        vocab_size=600,
        minloglevel=2,
        **dict(unk_id=0, bos_id=1, eos_id=2),
        **settings,
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def content():
    """Returns a tokenizer.json like GPT-NeoX's: byte-level BPE with NFC, two special tokens and one added token."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = tokenizers.normalizers.NFC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[END, "<|padding|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    made.add_tokens(["    "])
    made.post_processor = tokenizers.processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return made.to_str().encode()


@pytest.fixture(scope="module")
def model():
    """Returns a tokenizer.model like Llama 2's: BPE with byte pieces, NFKC, and a space before every text."""
    return trained(model_type="bpe", byte_fallback=True)


@pytest.fixture(scope="module")
def byte_level(content):
    return Tokenizers(v=0, eod=0, tokenizer=content)


@pytest.fixture(scope="module")
def pieces(model):
    return SentencePiece.of_model(model)


@pytest.mark.parametrize("kind", ["byte_level", "pieces"])
def test_every_byte_string_comes_back(kind, request, tmp_path):
    """Hostile bytes round-trip alone, in a batch and with the saved codec.

    No text has the end-of-document id.
    """
    codec = request.getfixturevalue(kind)
    codecs.save(codec, tmp_path)
    loaded = codecs.load(tmp_path)
    assert (loaded.spec, loaded.fingerprint, loaded.eod_id) == (codec.spec, codec.fingerprint, codec.eod_id)
    documents = [*HOSTILE, TEXT.encode()]
    encoded = codec.encode_batch(documents)
    assert loaded.decode_batch(encoded) == documents
    for document, ids in zip(documents, encoded, strict=True):
        assert ids.dtype == np.int32 and codec.eod_id not in ids
        assert codec.token_byte_lengths(ids).sum() == len(document)
    assert loaded.encode(documents[-2]).tolist() == encoded[-2].tolist()
    assert len(encoded[-1]) < 0.6 * len(documents[-1])


def test_ids_are_those_of_the_tokenizer(byte_level, content, model, pieces):
    """Ids equal those of the original packages for text that normalisation does not change.

    They are without prefix tokens and without the space that a tokenizer.model puts before every text.
    """
    theirs = tokenizers.Tokenizer.from_str(content.decode())
    assert byte_level.encode(TEXT.encode()).tolist() == theirs.encode(TEXT, add_special_tokens=False).ids
    assert byte_level.vocab_size == theirs.get_vocab_size() == 501 and byte_level.spec == "tokenizers(eod=0,v=501)"
    line = " def getmodule(object, _filename=None): naïve"
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert pieces.encode(line.encode()).tolist() == reference.encode(line[1:])
    assert (pieces.eod_id, pieces.vocab_size) == (2, 600)


def test_special_tokens_are_text_in_texts_and_nothing_in_ids(byte_level):
    """Text that looks like a special token is encoded as text; the token's id has no bytes.

    So a document cannot end another one.
    """
    assert 0 not in byte_level.encode(END.encode())
    assert byte_level.decode([0, 1]) == b""
    assert byte_level.decode(byte_level.encode(b"    ")) == b"    " and 500 in byte_level.encode(b"x    y")
    assert (codecs.eod_id(byte_level), codecs.eod_id(codecs.Bytes())) == (0, 256)


def test_fingerprints_tell_tokenizers_apart(byte_level, content):
    """Another end-of-document id or another file changes the fingerprint."""
    others = [Tokenizers(v=0, eod=1, tokenizer=content), Tokenizers(v=0, eod=0, tokenizer=content + b"\n")]
    assert len({codec.fingerprint for codec in (byte_level, *others)}) == 3


def test_the_folder_of_a_model_names_its_tokenizer(content, model, tmp_path):
    """A byte-level tokenizer.json takes precedence over tokenizer.model; files are returned unchanged."""
    assert codecs.read_tokenizer(tmp_path, eod=0) is None
    (tmp_path / "tokenizer.json").write_bytes(content)
    found = codecs.read_tokenizer(tmp_path, eod=0)
    assert isinstance(found, Tokenizers) and codecs.tokenizer_files(found)["tokenizer.json"] == content
    with pytest.raises(InputError, match="does not define the end-of-text id .* Give it: --eod ID"):
        codecs.read_tokenizer(tmp_path)
    changed = json.loads(content) | {"pre_tokenizer": {"type": "Metaspace"}}  # as Llama 2's, beside its tokenizer.model
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    (tmp_path / "tokenizer.model").write_bytes(model)
    for eod in (2, None):
        found = codecs.read_tokenizer(tmp_path, eod=eod)
        assert isinstance(found, SentencePiece) and codecs.tokenizer_files(found)["tokenizer.model"] == model
    with pytest.raises(
        InputError, match="has the end-of-text id 2, and 7 was requested.* Use the id of the file: --eod"
    ):
        codecs.read_tokenizer(tmp_path, eod=7)
    assert codecs.tokenizer_files(codecs.Bytes()) is None


@pytest.mark.parametrize("kind", ["byte_level", "pieces"])
def test_transformers_reads_the_files_with_the_same_ids(kind, request, tmp_path):
    """AutoTokenizer gives the codec's ids from the files of an exported model, and its end-of-text id."""
    transformers = pytest.importorskip("transformers")
    codec = request.getfixturevalue(kind)
    for name, file in codecs.tokenizer_files(codec).items():
        (tmp_path / name).write_bytes(file)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    line = "def getmodule(object, _filename=None): naïve"
    assert theirs.encode(line, add_special_tokens=False) == codec.encode(line.encode()).tolist()
    assert theirs.eos_token_id == codec.eod_id


def test_unigram_pieces_are_not_passed_off_as_a_llama_tokenizer():
    """There are no files for unigram pieces, since `transformers` would merge them as BPE."""
    codec = SentencePiece.of_model(trained(byte_fallback=True))
    assert codec.decode(codec.encode(HOSTILE[-2])) == HOSTILE[-2] and codec.eod_id == 2
    assert codecs.tokenizer_files(codec) is None


def test_tokenizers_that_lose_text_are_refused(content):
    """The error names the step that is not lossless."""
    table = json.loads(content)

    def read(eod=0, v=0, **changes):
        return Tokenizers(v=v, eod=eod, tokenizer=json.dumps(table | changes).encode())

    with pytest.raises(InputError, match=r"ids 0 to 500, and tokenizers\(eod=501,v=0\) was requested"):
        read(eod=501)
    with pytest.raises(InputError, match=r"tokenizers\(eod=0,v=7\) was requested"):
        read(v=7)
    with pytest.raises(InputError, match="uses BPE that is not byte-level; .* tokenizer.model"):
        read(pre_tokenizer=None)
    with pytest.raises(InputError, match="uses WordPiece"):
        read(model={"type": "WordPiece", "vocab": {}})
    with pytest.raises(InputError, match="normalizer Lowercase .it changes text."):
        read(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]})
    with pytest.raises(InputError, match="add_prefix_space"):
        read(pre_tokenizer=table["pre_tokenizer"] | {"add_prefix_space": True})
    with pytest.raises(InputError, match="no token for 1 of the 256 bytes .the first is 33."):
        vocab = {("~~~~" if token == "!" else token): i for token, i in table["model"]["vocab"].items()}
        merges = [pair for pair in table["model"]["merges"] if "!" not in "".join(pair)]
        read(model=table["model"] | {"vocab": vocab, "merges": merges})
    with pytest.raises(InputError, match="tokenizer.json cannot be read .* Copy it again"):
        read(model={"type": "BPE"})
    with pytest.raises(InputError, match="tokenizer.json cannot be read"):
        Tokenizers(v=0, eod=0, tokenizer=content[:-1])
    with pytest.raises(InputError, match="no pieces for single bytes"):
        SentencePiece.of_model(trained(model_type="bpe"))
    with pytest.raises(InputError, match="5 bytes were given as a SentencePiece model, which it is not"):
        SentencePiece.of_model(b"bytes")
    with pytest.raises(InputError, match="not built from text: it comes with a model. .compressed-lm import"):
        codecs.create("tokenizers")


def test_an_end_that_is_a_byte_is_refused(content, byte_level):
    """A byte's id cannot be end-of-document (`a banana` decoded to ` bnn`)."""
    for byte in (0, ord("a"), 255):
        taken = int(byte_level.encode(bytes([byte]))[0])
        with pytest.raises(
            InputError, match=rf"has the id {taken} for the byte {byte} .* was given as the end-of-document id"
        ):
            Tokenizers(v=0, eod=taken, tokenizer=content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vocab, added: vocab.update(b=vocab["a"]), "gives the id .* to 2 tokens, such as 'a' and 'b'"),
        (lambda vocab, added: vocab.update(a=vocab["Ġthe"]), "gives the id .* to 2 tokens"),
        (lambda vocab, added: vocab.update({"Ġthe": vocab["Ġof"]}), "gives the id .* to 2 tokens, such as 'Ġof'"),
        (lambda vocab, added: vocab.update(a=1 << 28), "ids up to 16 times as many as tokens"),
        (lambda vocab, added: added.append({**added[0], "id": vocab["a"], "content": "a"}), "for the byte 97"),
        (lambda vocab, added: vocab.pop("a"), "to 2 tokens|has no token for 1 of the 256 bytes"),
    ],
)
def test_bytes_without_an_id_of_their_own_are_refused(content, change, message):
    """Invalid ids are refused immediately when the file is read.

    Cases: a special token that is a byte, two tokens with one id, and extremely large ids.
    """
    changed = json.loads(content)
    changed["model"]["merges"] = []
    for token in (" of", " the"):
        changed["model"]["vocab"].setdefault(token.replace(" ", "Ġ"), len(changed["model"]["vocab"]) + 1)
    change(changed["model"]["vocab"], changed["added_tokens"])
    with pytest.raises(InputError, match=message):
        Tokenizers(v=0, eod=0, tokenizer=json.dumps(changed).encode())
