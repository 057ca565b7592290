"""A corpus in memory with any division into units, for tests of the compression job."""

import multiprocessing
import os
import signal

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data.corpus import Corpus, Document, Span, Unit


class MadeCorpus(Corpus):
    """Documents in units of the given sizes (numbers of documents).

    Attributes:
        read_units: numbers of the units that were read, with the documents skipped.
    """

    spec, splits = "made", ("train",)

    def __init__(self, documents, sizes=None, *, named=False):
        self._documents, self.has_ids = [bytes(d) for d in documents], named
        self._sizes = list(sizes or [len(documents)])
        assert sum(self._sizes) == len(documents)
        self.read_units = []

    def _units(self, split):
        ends = [sum(self._sizes[: i + 1]) for i in range(len(self._sizes))]
        return tuple(
            Unit((Span("made", end - n, end),), sum(map(len, self._documents[end - n : end])))
            for n, end in zip(self._sizes, ends, strict=True)
        )

    def _read(self, split, unit, skip):
        (span,) = unit.spans
        self.read_units.append((self.units().index(unit), skip))
        for index in range(span.start + skip, span.stop):
            yield Document(self._documents[index], f"name {index}" if self.has_ids else None)

    def _fingerprint(self, split):
        return "made"


class KilledInWorkers(Bytes):
    """Codec that ends a worker process as the system does when memory is short."""

    def encode_batch(self, documents):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_batch(documents)
