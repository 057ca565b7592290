"""Inspection of a token store: manifest, counts, and sample documents with their decoded tokens."""

import dataclasses
import itertools
import math
import pathlib
import zlib
from collections.abc import Iterable

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.corpus import Corpus
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.terminal import cell


@dataclasses.dataclass(frozen=True)
class SampledDocument:
    """One document of a store.

    Attributes:
        index: its number in the store.
        name: its name in the corpus, if the store has names.
        n_bytes, n_tokens: its lengths.
        first_ids: its first ids.
        original: the document in its corpus; None if no corpus was given.
        decoded: its decoded tokens.
        lossless: whether the decoded bytes have the recorded length and checksum.
    """

    index: int
    name: str | None
    n_bytes: int
    n_tokens: int
    first_ids: tuple[int, ...]
    original: bytes | None
    decoded: bytes
    lossless: bool


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Statistics of a store.

    Attributes:
        path: its folder.
        manifest: its manifest.
        fingerprint: its fingerprint.
        bytes_per_token: bytes of text per token, without end-of-document.
        bits_per_byte_stored: log2(V) bits per token, divided by the bytes of text: the size of the tokens without a
            model; 8 for plain bytes.
        tokens_per_document: mean number of tokens per document.
        sample: its first documents, if a codec was given.
    """

    path: pathlib.Path
    manifest: dict
    fingerprint: str
    bytes_per_token: float
    tokens_per_document: float
    bits_per_byte_stored: float
    sample: tuple[SampledDocument, ...]


def inspect_store(
    path: str | pathlib.Path, *, codec: Codec | None = None, corpus: Corpus | None = None, n_documents: int = 3
) -> Inspection:
    """Returns the statistics of a store, and with its codec a sample of decoded documents.

    Args:
        path: folder of the store.
        codec: the codec that made it; without it no document is decoded.
        corpus: the corpus that it was made from, to show the originals.
        n_documents: number of documents to decode.

    Raises:
        InputError: the store is unfinished or damaged, or was made with another codec or corpus.
    """
    store = TokenStore.open(path, fingerprint=codec.fingerprint if codec else None)
    recorded = store.manifest["corpus"]
    if corpus is not None and corpus.describe(recorded["split"])["fingerprint"] != recorded["fingerprint"]:
        raise InputError(
            f"The token store {path} was made from {recorded['spec']} ({recorded['split']}), and the corpus "
            f"{corpus.spec} has other documents. Name the corpus of the manifest, or inspect the store without a "
            "corpus."
        )
    return Inspection(
        path=store.path,
        manifest=store.manifest,
        fingerprint=store.fingerprint,
        bytes_per_token=store.n_bytes / max(store.n_tokens, 1),
        tokens_per_document=store.n_tokens / max(store.n_documents, 1),
        bits_per_byte_stored=store.n_tokens * math.log2(store.vocab_size) / max(store.n_bytes, 1),
        sample=_sample(store, codec, corpus, n_documents) if codec else (),
    )


def _sample(store: TokenStore, codec: Codec, corpus: Corpus | None, n_documents: int) -> tuple[SampledDocument, ...]:
    """Returns the first documents of the store."""
    records = list(store.documents(0, n_documents))
    originals: Iterable[bytes | None] = itertools.repeat(None)
    if corpus is not None:
        originals = corpus.documents(store.manifest["corpus"]["split"])
    decoded = codec.decode_batch([record.ids for record in records])
    return tuple(
        SampledDocument(
            index=index,
            name=name,
            n_bytes=record.n_bytes,
            n_tokens=len(record.ids),
            first_ids=tuple(record.ids[:12].tolist()),
            original=original,
            decoded=text,
            lossless=len(text) == record.n_bytes and zlib.crc32(text) == record.crc32 and original in (None, text),
        )
        for index, (name, record, text, original) in enumerate(
            zip(store.names(0, n_documents), records, decoded, originals, strict=False)
        )
    )


def render(inspection: Inspection, *, n_characters: int = 300) -> Group:
    """Returns the inspection as rich tables; long documents are truncated to `n_characters`."""
    manifest = inspection.manifest
    codec, corpus = manifest["codec"], manifest["corpus"]
    summary = Table(title=cell(inspection.path), box=box.SIMPLE, show_header=False)
    for name, value in (
        ("codec", f"{codec['spec']} (fingerprint {codec['fingerprint'][:16]})"),
        ("vocabulary", f"{codec['vocab_size']:,}"),
        ("window bits", codec["window_bits"]),
        ("M1", codec["m1_hash"] and codec["m1_hash"][:16]),
        ("corpus", f"{corpus['spec']}, split {corpus['split']}"),
        ("documents", f"{manifest['n_documents']:,} in {len(manifest['shards'])} shards"),
        ("bytes", f"{manifest['n_bytes']:,}"),
        ("tokens", f"{manifest['n_tokens']:,} ({inspection.tokens_per_document:,.1f} per document)"),
        ("bytes per token", f"{inspection.bytes_per_token:.3f}"),
        ("bits per byte", f"{inspection.bits_per_byte_stored:.3f} as stored (log2 V per token)"),
        ("store fingerprint", inspection.fingerprint[:16]),
        ("written by", ", ".join(f"{name} {version}" for name, version in sorted(manifest["versions"].items()))),
    ):
        if value is not None:
            summary.add_row(name, cell(value))
    if not inspection.sample:
        return Group(summary)
    sample = Table(title="documents", box=box.SIMPLE_HEAD, show_lines=True)
    for column in ("document", "original", "decoded"):
        sample.add_column(column)
    for document in inspection.sample:
        name = "" if document.name is None else f" {document.name}:"
        lengths = f"{document.index}:{name} {document.n_bytes:,} bytes, {document.n_tokens:,} tokens"
        result = "same bytes" if document.lossless else "NOT THE SAME BYTES"
        ids = " ".join(map(str, document.first_ids)) + (" ..." if document.n_tokens > len(document.first_ids) else "")
        original = "(no corpus given)" if document.original is None else _shown(document.original, n_characters)
        sample.add_row(cell(f"{lengths}\n{result}\nids {ids}"), original, _shown(document.decoded, n_characters))
    return Group(summary, sample)


def _shown(text: bytes, n_characters: int) -> Text:
    shown = text.decode("utf-8", "backslashreplace")
    return cell(shown if len(shown) <= n_characters else shown[:n_characters] + " ...")
