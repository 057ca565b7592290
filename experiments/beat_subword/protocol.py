"""Protocol of the comparison, written before the recorded runs and after the trials described on the page.

Every method learns its vocabulary from the same 30 MB and trains the same model on the same bytes. At each vocabulary
size the models of all methods have the same FLOPs per byte of text, output layer included: `d_ff` is adapted. Since all
read the same bytes, their total FLOPs are also equal.
"""

import dataclasses
import json
import pathlib
import random
from collections.abc import Iterator, Sequence

import numpy as np

from compressed_lm import codecs, models
from compressed_lm.data.corpus import Corpus
from compressed_lm.data.job import compress
from compressed_lm.data.shards import Record
from compressed_lm.data.sources import open_corpus
from compressed_lm.data.store import TokenStore
from compressed_lm.pipelines import build_codec
from compressed_lm.pipelines import m1 as m1_model
from compressed_lm.training import TrainConfig

VOCABULARIES = (4096, 16384, 65536)
METHODS = {  # {v} and {b} = log2(v) are filled in
    "sentencepiece": "sentencepiece(v={v})",
    "sentencepiece, BPE": "sentencepiece(model=bpe,v={v})",
    "byte-level BPE": "bpe(v={v})",
    "eiw": "eiw(b={b},v={v})",
    "pieces": "pieces(v={v})",
    "pieces, marks within": "pieces(marks=within,v={v})",
}
REFERENCE = "sentencepiece"  # its model with REFERENCE_D_FF sets the FLOPs per byte
REFERENCE_D_FF = 512
LEARNING_RATES = (5e-3, 1e-2, 2e-2)  # more are tried while the best is at an end
SEEDS = (0, 1, 2)

LEARN_BYTES, DEV_BYTES = 30_000_000, 200_000
C4_SHARE = 0.25  # of the training text; the rest is mixed_en
LONGEST = 32_768  # most bytes of a document, so that no book dominates

MODEL = dict(d_model=128, n_layers=4, n_heads=4, d_head=32, gated_mlp=True, activation="silu", qk_norm=True)
MODEL |= dict(position="rotary", scan_layers=False)
TRAIN = TrainConfig(
    steps=1, batch_size=8, seq_len=256, warmup_steps="5%", schedule="wsd", optimizer="muon", log_every=50
)


class Texts:
    """Texts of the comparison, drawn from the corpora of a folder.

    Attributes:
        files: name -> JSON lines: learn, train, dev (of the training files), c4, mixed (all validation documents).
    """

    def __init__(self, data: pathlib.Path, out: pathlib.Path, train_bytes: int):
        self.files = {name: out / f"{name}.jsonl" for name in ("learn", "train", "dev", "c4", "mixed")}
        if all(path.exists() for path in self.files.values()):
            return
        out.mkdir(parents=True, exist_ok=True)
        drawn = random.Random(0)
        c4, mixed = (
            [_cut(d) for d in open_corpus(f"json:{data}/corpora/{glob}").documents("train")]
            for glob in ("c4_en/c4-train*", "mixed_en/train-*")
        )
        drawn.shuffle(c4), drawn.shuffle(mixed)
        c4, mixed = iter(c4), iter(mixed)
        dev = _both(c4, mixed, DEV_BYTES)
        train = _both(c4, mixed, train_bytes)
        drawn.shuffle(train)
        learn = [*train, *_both(c4, mixed, max(0, LEARN_BYTES - sum(map(len, train))))]
        validation = {
            name: open_corpus(f"json:{data}/corpora/{glob}").documents("train")
            for name, glob in (("c4", "c4_en/c4-validation*"), ("mixed", "mixed_en/validation-*"))
        }
        for name, documents in (dict(learn=learn, train=train, dev=dev) | validation).items():
            lines = "".join(json.dumps({"text": d.decode()}) + "\n" for d in documents)
            self.files[name].write_text(lines, encoding="utf-8")

    def documents(self, name: str) -> list[bytes]:
        """Returns the documents of one text."""
        return list(self.corpus(name).documents("train"))

    def corpus(self, name: str) -> Corpus:
        """Returns one text as a corpus."""
        return open_corpus(f"json:{self.files[name]}")


def _cut(document: bytes) -> bytes:
    return document[:LONGEST].decode("utf-8", "ignore").encode()


def _both(c4: Iterator[bytes], mixed: Iterator[bytes], n_bytes: int) -> list[bytes]:
    """Returns documents of both, about `n_bytes`: C4 has its share, or all that is left of it."""
    taken = []
    for source, share in ((c4, C4_SHARE), (mixed, 1 - C4_SHARE)):
        size = 0
        while size < share * n_bytes and (document := next(source, None)) is not None:
            taken.append(document)
            size += len(document)
    return taken


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Codec and the token stores of its texts."""

    codec: codecs.Codec
    stores: dict[str, TokenStore]

    @property
    def bytes_per_token(self) -> float:
        """Bytes per token of the training text, with ends of documents counted as tokens."""
        store = self.stores["train"]
        return store.n_bytes / (store.n_tokens + store.n_documents)


def encoded(spec: str, texts: Texts, out: pathlib.Path, codec: codecs.Codec | None = None) -> Encoded:
    """Returns a codec and its token stores; learns the codec and writes the stores unless they exist."""
    folder = out / build_codec.codec_folder(spec) if codec is None else out / spec
    if codec is None:
        learn = lambda: texts.documents("learn")  # noqa: E731
        m1 = m1_model.load_m1(m1_model.PRETRAINED) if spec.startswith("eiw") else None
        codec = build_codec.build_in(folder / "codec", spec, m1=m1, documents=learn, compiled={})
    stores = {
        name: compress(texts.corpus(name), "train", codec, folder / name, n_shards=1, log=lambda line: None)
        for name in ("train", "dev", "c4", "mixed")
    }
    return Encoded(codec, stores)


def run_name(spec: str, learning_rate: float, seed: int) -> str:
    """Returns the name of a model in folders and files."""
    return f"{build_codec.codec_folder(spec)}-{learning_rate:g}-{seed}"


def flops_per_byte(config: models.TransformerConfig, bytes_per_token: float) -> float:
    """Returns the forward FLOPs per byte of text, output layer included."""
    return models.flops_per_token(config, softmax=True) / bytes_per_token


def model_at(flops: float, v: int, bytes_per_token: float) -> models.TransformerConfig:
    """Returns the model whose d_ff, a multiple of 8, is nearest to the given FLOPs per byte."""
    shape = lambda d_ff: models.TransformerConfig(models.model_vocab_size(v), d_ff=d_ff, **MODEL)  # noqa: E731
    return min(map(shape, range(8, 2049, 8)), key=lambda c: abs(flops_per_byte(c, bytes_per_token) - flops))


class Tokens:
    """Encoded documents in memory, which replace a token store in `training.train` and `document_bits`."""

    def __init__(self, codec: codecs.Codec, documents: Sequence[bytes]):
        self.vocab_size = self.eod_id = codec.vocab_size
        self.codec_spec, self.codec_fingerprint, self.fingerprint = codec.name, codec.name, codec.name
        ids = codec.encode_batch(documents)
        self._records = [Record(i, len(d), 0) for i, d in zip(ids, documents, strict=True)]
        self._stream = np.concatenate([np.append(i, self.eod_id) for i in ids]).astype(np.int32)
        self.n_documents, self.n_bytes = len(documents), sum(map(len, documents))
        self.n_tokens = len(self._stream) - len(documents)
        self.bytes_per_token = self.n_bytes / len(self._stream)

    def documents(self) -> list[Record]:
        """Returns all documents."""
        return self._records

    def rows(self, seq_len: int, *, drop_remainder: bool = True) -> np.ndarray:
        """Returns rows of ids, int32[rows, seq_len]."""
        n = len(self._stream)
        if drop_remainder:
            return self._stream[: n // seq_len * seq_len].reshape(-1, seq_len)
        return np.pad(self._stream, (0, -n % seq_len), constant_values=-1).reshape(-1, seq_len)
