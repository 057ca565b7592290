"""Token stores of raw bytes as corpora."""

import itertools
from collections.abc import Iterator

from compressed_lm import io
from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.corpus import Corpus, Document, Source, Span, Unit
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError


class StoreDocuments(Corpus):
    """Documents of a token store of the codec `bytes`."""

    splits = ("train",)

    def __init__(self, directory: str) -> None:
        self.spec = f"store:{directory}"
        io.any_path(directory, f"In the corpus {self.spec},")
        self._store = TokenStore.open(directory)
        if self._store.codec_spec != "bytes":
            raise InputError(
                f"The corpus {self.spec} is a token store of codec {self._store.codec_spec}; only a store of the codec "
                "`bytes` can be read as documents. Name the corpus that this store was made from; its manifest has the "
                "spec."
            )
        self.has_ids = any("names" in shard["sha256"] for shard in self._store.manifest["shards"])

    def _units(self, split: str) -> tuple[Unit, ...]:
        n_documents, n_bytes = self._store.n_documents, self._store.n_bytes
        n_units = min(max(n_bytes // corpus_lib.UNIT_BYTES, 1), n_documents)
        edges = [n_documents * i // n_units for i in range(n_units + 1)]
        return tuple(
            Unit((Span(self.spec, start, stop),), n_bytes * (stop - start) // n_documents)
            for start, stop in itertools.pairwise(edges)
        )

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        (span,) = unit.spans
        start, stop = span.start + skip, span.stop
        names = self._store.names(start, stop) if self.has_ids else itertools.repeat(None)
        for record, name in zip(self._store.documents(start, stop), names, strict=False):
            yield Document(record.ids.astype("u1").tobytes(), name)

    def _fingerprint(self, split: str) -> str:
        return self._store.fingerprint


SOURCE = Source("store", "store:DIR", "a token store of the codec bytes", lambda rest, opener: StoreDocuments(rest))
