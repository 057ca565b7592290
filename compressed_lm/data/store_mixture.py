"""Mixtures of finished token stores for training: `mix:0.7*stores/web,0.3*stores/books`."""

import bisect
import hashlib
import re
from collections.abc import Sequence

import numpy as np

from compressed_lm.data.store import Rows, TokenStore
from compressed_lm.errors import InputError

_MIX = "mix:"
_PART = re.compile(r"(?P<rate>\d+\.?\d*|\.\d+)\*(?P<path>.+)", re.DOTALL)


class StoreMixture:
    """Several stores of one codec, for `training.train`: each step has rows of all of them at given rates.

    Attributes:
        stores: the stores.
        rates: share of each in the rows.
        fingerprint: hex digest of the stores and their rates.
        codec_spec, codec_fingerprint, vocab_size, eod_id: of the codec.
        n_documents, n_tokens, n_bytes: totals of the stores.
    """

    def __init__(self, stores: Sequence[TokenStore], rates: Sequence[float]) -> None:
        """Combines stores.

        Raises:
            InputError: the stores have different codecs.
        """
        self.stores, self.rates = tuple(stores), tuple(rate / sum(rates) for rate in rates)
        first = stores[0]
        for store in stores:
            if store.codec_fingerprint != first.codec_fingerprint:
                raise InputError(
                    f"The stores {first.path} and {store.path} were given as a mixture, and their codecs differ: "
                    f"{first.codec_spec} and {store.codec_spec} ({first.codec_fingerprint[:12]} and "
                    f"{store.codec_fingerprint[:12]}). Compress both corpora with one codec."
                )
        self.codec_spec, self.codec_fingerprint = first.codec_spec, first.codec_fingerprint
        self.vocab_size, self.eod_id = first.vocab_size, first.eod_id
        described = [f"{rate!r} {store.fingerprint}" for rate, store in zip(self.rates, stores, strict=True)]
        self.fingerprint = hashlib.sha256("\n".join(["mixture", *described]).encode()).hexdigest()
        self.n_documents = sum(store.n_documents for store in stores)
        self.n_tokens = sum(store.n_tokens for store in stores)
        self.n_bytes = sum(store.n_bytes for store in stores)

    def __repr__(self) -> str:
        parts = ", ".join(f"{rate:.4g}*{store!r}" for rate, store in zip(self.rates, self.stores, strict=True))
        return f"StoreMixture({parts})"

    def rows(self, seq_len: int) -> "MixedRows":
        """Returns the rows of all stores, with random access and the rates."""
        return MixedRows([store.rows(seq_len) for store in self.stores], self.rates)


class MixedRows:
    """Rows of several stores, one after another.

    Attributes:
        parts: (rate, number of rows) of each store.
    """

    def __init__(self, rows: Sequence[Rows], rates: Sequence[float]) -> None:
        self._rows = tuple(rows)
        self.parts = tuple((rate, len(part)) for rate, part in zip(rates, rows, strict=True))
        self._starts = np.cumsum([0, *map(len, rows)]).tolist()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        part = bisect.bisect_right(self._starts, index) - 1
        return self._rows[part][index - self._starts[part]]


def open_store(spec: str) -> TokenStore | StoreMixture:
    r"""Opens the token store in a folder, or a mixture `mix:RATE*FOLDER,RATE*FOLDER`.

    Rates are relative; a comma in a path may be written as `\,`.

    Raises:
        InputError: a store cannot be opened, the codecs differ, or a rate is missing.
    """
    if not spec.startswith(_MIX):
        return TokenStore.open(spec)
    parts = [part.replace("\\,", ",").strip() for part in re.split(r"(?<!\\),", spec.removeprefix(_MIX))]
    matches = [_PART.fullmatch(part) for part in parts]
    if not all(match and float(match["rate"]) > 0 for match in matches):
        raise InputError(
            f"The mixture of stores {spec!r} was given; expected a rate above 0 and a folder for each store, such as "
            "mix:0.7*stores/web,0.3*stores/books."
        )
    found = [match for match in matches if match]
    return StoreMixture([TokenStore.open(m["path"]) for m in found], [float(m["rate"]) for m in found])
