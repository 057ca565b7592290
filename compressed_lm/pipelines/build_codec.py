"""Codecs built from a spec, with a progress bar."""

import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from compressed_lm import codecs
from compressed_lm.codecs.protocol import Codec
from compressed_lm.errors import InputError
from compressed_lm.tracking.progress import progress


def codec_folder(spec: str) -> str:
    """Returns the folder name of a codec: `eiw(align=word,b=12,v=4096)` -> `eiw-b12-v4096-word`."""
    name, options = codecs.parse_spec(spec)
    numbers = [f"{key}{value}" for key, value in sorted(options.items()) if isinstance(value, int)]
    words = [value for key, value in sorted(options.items()) if isinstance(value, str) and value != "none"]
    return "-".join([name, *numbers, *words])


def build(
    spec: str,
    *,
    m1: codecs.M1 | None = None,
    documents: Callable[[], Iterable[bytes]] | None = None,
    dictionary: Any = None,
) -> Codec:
    """Returns the codec of a spec, with a progress bar; arguments as of `codecs.create`."""
    name, options = codecs.parse_spec(codecs.canonical_spec(spec))
    n_windows = codecs.FAMILIES[name].n_windows(**options)
    with progress(f"build {spec}", n_windows, unit="windows" if n_windows else "") as bar:
        return codecs.create(
            spec, m1=m1, documents=documents, progress=lambda n: bar.advance(n - bar.done), dictionary=dictionary
        )


def build_in(
    directory: str | os.PathLike,
    spec: str,
    *,
    m1: codecs.M1 | None,
    documents: Callable[[], Iterable[bytes]],
    compiled: dict[tuple, Any],
) -> Codec:
    """Returns the codec in a directory; builds and saves it if it does not exist.

    Args:
        directory: folder of the codec.
        spec, m1, documents: as for `codecs.create`.
        compiled: dictionaries of codecs built before, shared by codecs that differ only in the vocabulary size. The
            dictionary of this codec is added.

    Raises:
        InputError: the directory holds a codec of another M1; token stores may depend on it.
    """
    _, options = codecs.parse_spec(codecs.canonical_spec(spec))
    windows = tuple(sorted((k, v) for k, v in options.items() if k != "v"))
    codec = codecs.load(directory) if (pathlib.Path(directory) / codecs.registry.HEADER).exists() else None
    if codec is not None and m1 is not None and codec.m1_hash not in (None, m1.hash):
        raise InputError(
            f"{directory} holds the codec {codec.spec} of the M1 {str(codec.m1_hash)[:12]}, and the given M1 is "
            f"{m1.hash[:12]}. Give the M1 of the codec, or another folder."
        )
    if codec is None:
        codec = build(spec, m1=m1, documents=documents, dictionary=compiled.get(windows))
        codecs.save(codec, directory)
    compiled[windows] = getattr(codec, "dictionary", None)
    return codec
