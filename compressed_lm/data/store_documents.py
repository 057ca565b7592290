"""Token stores of raw bytes as corpora."""

from collections.abc import Iterator

from compressed_lm import io
from compressed_lm.data.corpus import Corpus, Source
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError


class StoreDocuments(Corpus):
    """Documents of a token store of the codec `bytes`."""

    splits = ("train",)

    def __init__(self, directory: str) -> None:
        self.spec = f"store:{directory}"
        io.local_path(directory, f"In the corpus {self.spec},")
        self._store = TokenStore.open(directory)
        if self._store.codec_spec != "bytes":
            raise InputError(
                f"The corpus {self.spec} is a token store of codec {self._store.codec_spec}; only a store of the codec "
                "`bytes` can be read as documents. Name the corpus that this store was made from; its manifest has the "
                "spec."
            )

    def estimated_bytes(self, split: str) -> int:
        return self._store.n_bytes

    def _documents(self, split: str, shard: int, n_shards: int) -> Iterator[bytes]:
        for index, record in enumerate(self._store.documents()):
            if index % n_shards == shard:
                yield record.ids.astype("u1").tobytes()

    def _fingerprint(self, split: str) -> str:
        return self._store.fingerprint


SOURCE = Source("store", "store:DIR", "a token store of the codec bytes", lambda rest, opener: StoreDocuments(rest))
