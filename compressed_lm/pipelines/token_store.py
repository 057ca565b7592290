"""Token store of a corpus split, compressed by this process alone."""

import pathlib
from typing import Any

from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.corpus import Corpus
from compressed_lm.data.job import compress
from compressed_lm.data.store import TokenStore


def token_store(corpus: Corpus, split: str, codec: Codec, out: pathlib.Path, **options: Any) -> TokenStore:
    """Returns the finished token store of a corpus split; arguments as of `data.job.compress`."""
    store = compress(corpus, split, codec, out, **options)
    assert store is not None  # None only if several processes share the work
    return store
