"""Text in runs that a tokenizer takes and runs that it does not, such as bytes of invalid UTF-8."""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np


def encode_runs(
    documents: Sequence[bytes], pattern: re.Pattern, encode: Callable[[list[str]], Iterable[Sequence[int]]]
) -> list[np.ndarray]:
    """The ids of each document, run by run.

    A tokenizer takes some microseconds for a call, which is long where every other byte is invalid, so each run that
    differs is encoded once.

    Args:
      documents: byte strings; surrogates stand for what is no UTF-8.
      pattern: matches one run after another.
      encode: the ids of each of some runs.

    Returns:
      int32[T] for each document.
    """
    runs = [pattern.findall(document.decode("utf-8", "surrogateescape")) for document in documents]
    different = list(dict.fromkeys(itertools.chain.from_iterable(runs)))
    ids = dict(zip(different, encode(different), strict=True))
    return [np.fromiter(itertools.chain.from_iterable(map(ids.__getitem__, own)), np.int32) for own in runs]
