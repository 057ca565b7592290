"""Codec registry: parse, build, save and load codecs by name."""

import hashlib
import inspect
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from etils import epath

from compressed_lm import io, specs
from compressed_lm.codecs.arithmetic import AC, StaticAC
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.codecs.checked import CheckedCodec
from compressed_lm.codecs.eiw import DICTIONARY_FILE, EIW, Options, read_dictionary
from compressed_lm.codecs.gzip_codec import Gzip
from compressed_lm.codecs.lzma_codec import Lzma
from compressed_lm.codecs.m1 import M1
from compressed_lm.codecs.pieces_codec import PiecesCodec
from compressed_lm.codecs.protocol import Codec
from compressed_lm.codecs.sentencepiece_codec import SentencePiece
from compressed_lm.codecs.tokenizers_codec import BPE, Tokenizers
from compressed_lm.errors import InputError
from compressed_lm.io import any_path, locks, strict_json, write_atomic
from compressed_lm.settings import Limits

if TYPE_CHECKING:
    from compressed_lm.coding.dictionary import Dictionary

FAMILIES: dict[str, type[CheckedCodec]] = {
    family.name: family
    for family in (Bytes, SentencePiece, BPE, Tokenizers, Gzip, Lzma, StaticAC, AC, PiecesCodec, EIW)
}
"""Codec families by name."""

FORMAT_VERSION = 1
HEADER = "codec.json"
PRETRAINED = epath.resource_path("compressed_lm") / "pretrained"
"""Folder of the codecs and the M1 that come with the package."""
_UNBOUNDED = re.compile(r"^\s*eiw\(\s*(?:b=inf\s*,\s*v=(\d+)|v=(\d+)\s*,\s*b=inf)\s*\)\s*$")
_RESOURCES = ("m1", "documents", "progress", "dictionary", "tokenizer")


def examples() -> list[str]:
    """Returns an example spec of each family that is built from a spec."""
    return [family.example for family in FAMILIES.values() if family.example]


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Returns name and options of a spec such as `eiw(b=16,v=65536,align=word)`.

    `eiw(b=inf,v=V)` is `ac(v=V)`: one window of unlimited size.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), or the spec cannot be parsed.
    """
    return specs.parse(
        _UNBOUNDED.sub(r"ac(v=\1\2)", spec),
        {
            name: {k: specs.Option(type(v), v, family.limits.get(k, Limits())) for k, v in _options(name).items()}
            for name, family in FAMILIES.items()
        },
        noun="codec",
        example=f"{examples()[0]} or {examples()[-1]}",
    )


def canonical_spec(spec: str) -> str:
    """Returns a codec's own spec: sorted options, all numbers, and words that are not the default."""
    name, options = parse_spec(spec)
    default = _options(name)
    full = sorted((k, v) for k, v in (default | options).items() if isinstance(v, int) or v != default[k])
    return f"{name}({','.join(f'{k}={v}' for k, v in full)})" if full else name


def _options(name: str) -> dict[str, Any]:
    """Returns the options of a family, with their defaults."""
    parameters = inspect.signature(FAMILIES[name].build).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in _RESOURCES}


def create(
    spec: str,
    *,
    m1: M1 | None = None,
    documents: Callable[[], Iterable[bytes]] | None = None,
    progress: Callable[[int], None] | None = None,
    dictionary: "Dictionary | None" = None,
) -> Codec:
    """Builds the codec of a spec.

    Args:
        spec: such as `eiw(b=12,v=4096,align=word)`; see `parse_spec`.
        m1: the byte model, for `ac` and `eiw`.
        documents: returns the training documents, for `sentencepiece`, `bpe`, `pieces` and `static_ac`.
        progress: called with the number of windows found while `eiw` compiles its dictionary, or of candidates dropped
            while `pieces` is trained.
        dictionary: for `eiw`, an existing dictionary for the same M1, b, alignment and fill.

    Raises:
        InputError: the spec is invalid, or a resource that the codec needs was not given.
    """
    name, options = parse_spec(spec)
    needed = inspect.signature(FAMILIES[name].build).parameters
    resources: dict[str, Any] = {}
    if "tokenizer" in needed:
        raise InputError(
            f"The codec {spec} is not built from text: it comes with a model. `compressed-lm import FOLDER --out RUN` "
            "writes it to RUN/codec."
        )
    if "m1" in needed:
        if m1 is None:
            raise InputError(
                f"The codec {spec} needs a byte model, and none was given. Train one (`compressed-lm train-m1`) and "
                "pass it (`--m1 DIR`)."
            )
        resources["m1"] = m1
    if "documents" in needed:
        if documents is None:
            raise InputError(
                f"The codec {spec} is trained on text, and none was given. Name a corpus (`--corpus SOURCE`)."
            )
        resources["documents"] = documents()
    if "dictionary" in needed:
        resources["dictionary"] = dictionary
    if "progress" in needed and progress:
        resources["progress"] = progress
    return FAMILIES[name].build(**options, **resources)


def save(codec: Codec, directory: str | os.PathLike) -> None:
    """Writes a codec as a directory, also gs:// and s3://: its files, then `codec.json` with names and checksums."""
    directory, files = any_path(directory, "The codec directory"), saved(codec)
    with locks.held(directory):
        for name, content in files.items():
            write_atomic(directory / name, content)


def saved(codec: Codec) -> dict[str, bytes]:
    """Returns the content of the files that `save` writes, by name; `codec.json` is the last."""
    files = codec.files()
    header = {
        "format_version": FORMAT_VERSION,
        "spec": codec.spec,
        "fingerprint": codec.fingerprint,
        "vocab_size": codec.vocab_size,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    }
    return files | {HEADER: (json.dumps(header, indent=2) + "\n").encode()}


def shipped() -> dict[str, epath.Path]:
    """Returns the codecs that come with the package: name -> directory."""
    return {path.name: path for path in sorted(PRETRAINED.iterdir()) if (path / HEADER).exists()}


def load(path: str | os.PathLike) -> Codec:
    """Loads a codec.

    Args:
        path: a directory that `save` wrote or a dictionary file that `compressed-lm compile` wrote, local, gs:// or
            s3://; or the name of a codec that comes with the package (see `shipped`).

    Raises:
        InputError: there is no codec, it has another format version, a file is missing or changed, or the fingerprint
            differs from the recorded one.
    """
    directory: Any = path if isinstance(path, epath.Path) else any_path(path, "The codec")
    if directory.exists() and not directory.is_dir():
        return _load_dictionary(directory)
    record = directory / HEADER
    if not record.exists():
        known = shipped()
        if str(directory) in known:
            return load(known[str(directory)])
        raise InputError(
            f"{directory} is not a codec directory: it has no {HEADER}. Give a directory that `compressed-lm "
            "build-codec` or the demo wrote, a file that `compressed-lm compile` wrote, or the name of a codec that "
            f"comes with the package ({', '.join(known) or 'there is none'})."
        )
    try:
        header = strict_json.parse(io.inside(directory, HEADER).read_text())
        version = header["format_version"]
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record} cannot be read ({error}). Build the codec again or restore the file.") from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{directory} has a codec of format version {version}; this package reads version {FORMAT_VERSION}. Build "
            "the codec again, or install the version of compressed_lm that wrote it."
        )
    try:
        return _load_files(directory, header)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{record} cannot be read ({error!r}). Build the codec again or restore the file.") from error


def _load_files(directory: epath.Path, header: dict) -> Codec:
    """Returns the codec that a header describes, and checks each of its files."""
    files: dict[str, bytes] = {}
    for name, digest in header["files"].items():
        path = io.inside(directory, name)
        content = path.read_bytes() if path.exists() else None
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            state = "is missing" if content is None else "was changed or truncated"
            raise InputError(
                f"{directory / name} {state}: its checksum is not the one in {HEADER}. Restore the file or "
                "build the codec again."
            )
        files[name] = content
    name, options = parse_spec(header["spec"])
    codec = FAMILIES[name].from_files(files, **options)
    if codec.fingerprint != header["fingerprint"]:
        raise InputError(
            f"{directory} was written with the fingerprint {header['fingerprint'][:12]} and loads with "
            f"{codec.fingerprint[:12]}: the codec's rules have changed since. Build the codec again, or install the "
            "version of compressed_lm that wrote it."
        )
    return codec


def save_dictionary(codec: EIW, path: str | os.PathLike) -> int:
    """Writes a compiled codec as one file (`-` for the standard output), and returns its size in bytes."""
    if not codec.dictionary:
        raise InputError(f"{codec.spec} has no dictionary: its windows are too wide to be listed. Save it by `save`.")
    return write_atomic(path, codec.files()[DICTIONARY_FILE])


def _load_dictionary(path: pathlib.Path | epath.Path) -> EIW:
    dictionary, header = read_dictionary(path.read_bytes(), str(path))
    family, options = parse_spec(header["spec"])
    if family != EIW.name:
        raise InputError(f"{path} has a dictionary for {header['spec']}; one for {EIW.name} was expected.")
    return EIW.from_dictionary(dictionary, header, Options(**options))
