"""Manifest of a token store: the file that describes codec, documents and shards, and marks the store as finished."""

import hashlib
from typing import Any

from compressed_lm import settings
from compressed_lm.data import array_record_shards, shards
from compressed_lm.errors import InputError
from compressed_lm.io import inside, remote, strict_json, write_atomic

VERSIONS = (1, 2)
"""Versions of the format that are read; the last is written. Version 1 has ArrayRecord shards."""

FILE = "manifest.json"
JOB = {1: ("codec", "corpus", "max_bytes", "n_shards"), 2: ("codec", "corpus", "max_bytes", "sharding")}
"""Entries that determine the tokens and the shards, by version; each shard's description has them, too."""

_MOST = 1 << 62


def fingerprint(manifest: dict) -> str:
    """Returns the hex digest of a store's content: its manifest without the package versions and the checksum."""
    content = {key: value for key, value in manifest.items() if key not in ("versions", "checksum")}
    return hashlib.sha256(shards.to_json(content)).hexdigest()


def job_of(manifest: dict) -> dict:
    """Returns the entries that determine the tokens and the shards."""
    return {key: manifest[key] for key in JOB[manifest["format_version"]]}


def write(directory: Any, manifest: dict) -> None:
    """Writes the manifest, which marks the store as finished. An identical manifest is not rewritten."""
    path = directory / FILE
    content = shards.to_json(manifest | {"checksum": _checksum(manifest)})
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)


def read(directory: Any) -> dict:
    """Returns the manifest of a store.

    Raises:
        InputError: there is none, or it has another format, was changed or is invalid.
    """
    path = directory / FILE
    again = f"run the same `compressed-lm compress ... --out {directory}` command again; finished shards are kept."
    try:
        manifest = strict_json.parse(inside(directory, FILE).read_bytes())
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        finished = sum(name.startswith("tokens-") and name.endswith(".json") for name in remote.sizes(directory))
        found = f"has {finished} finished shards but no {FILE}" if finished else f"has no {FILE}"
        raise InputError(
            f"The token store {directory} {found}: the compression job was not finished. R{again[1:]}"
        ) from None
    except ValueError as error:
        raise InputError(f"The file {path} is not valid JSON ({error}). Remove it and {again}") from None
    version = manifest.get("format_version")
    if version not in VERSIONS or isinstance(version, bool):
        raise InputError(
            f"The token store {directory} has format version {version}; this package reads versions "
            f"{' and '.join(map(str, VERSIONS))}. Compress the corpus again with this version of compressed_lm, or "
            "read the store with the version named in its manifest."
        )
    if manifest.get("checksum") != _checksum(manifest):
        raise InputError(f"The file {path} was changed: its checksum does not match its content. Remove it and {again}")
    try:
        _check(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"The file {path} is invalid ({error!r}), though its checksum is right: another program wrote it. Remove "
            f"it and {again}"
        ) from error
    return manifest


def _checksum(manifest: dict) -> str:
    """Returns the hex digest of a manifest without its checksum, which detects changes."""
    return hashlib.sha256(shards.to_json({k: v for k, v in manifest.items() if k != "checksum"})).hexdigest()


def _whole(values: dict, name: str, high: int = _MOST, low: int = 0) -> int:
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r:.60}; a whole number from {low} to {high} was expected")
    return value


def _text(values: dict, *names: str) -> None:
    for name in names:
        if not isinstance(values[name], str):
            raise ValueError(f"{name} is {values[name]!r:.60}; text was expected")


def _check(manifest: dict) -> None:
    """Raises an error that names a missing field of a manifest, or one with a wrong type or range."""
    codec, corpus, entries = (manifest[name] for name in ("codec", "corpus", "shards"))
    _text(codec, "name", "spec", "fingerprint")
    vocab_size = _whole(codec, "vocab_size", settings.LARGEST, low=1)
    if "eod_id" in codec:
        _whole(codec, "eod_id", vocab_size)
    _text(corpus, "spec", "split", "fingerprint")
    if manifest["max_bytes"] is not None:
        _whole(manifest, "max_bytes")
    if manifest["format_version"] == 1:
        _check_array_record(manifest, entries)
    else:
        _check_shards(manifest, entries)
    for name in ("n_documents", "n_bytes", "n_tokens"):
        if _whole(manifest, name) != sum(_whole(entry, name) for entry in entries):
            raise ValueError(f"{name} is not the sum of its shards")


def _check_shards(manifest: dict, entries: list[dict]) -> None:
    (kind,) = manifest["sharding"]
    if kind not in ("n_shards", "shard_bytes"):
        raise ValueError(f"sharding is {kind!r:.60}; n_shards or shard_bytes was expected")
    _whole(manifest["sharding"], kind, low=1)
    if not isinstance(manifest["units"], list):
        raise ValueError("units is no list")
    parts = manifest["corpus"].get("parts", {})
    _text(parts, *parts)
    for index, entry in enumerate(entries):
        _text(entry, "file")
        _text(entry["sha256"], *shards.FILES)
        if set(entry["sha256"]) - {*shards.FILES, "names"}:
            raise ValueError(f"shard {index} has other files than {', '.join(shards.FILES)}")
        for part in entry.get("bytes_of_parts", {}):
            _whole(entry["bytes_of_parts"], part)
        if entry["file"] != shards.shard_name(index):
            raise ValueError(f"shard {index} has the file {entry['file']!r:.60}")


def _check_array_record(manifest: dict, entries: list[dict]) -> None:
    if _whole(manifest, "n_shards") != len(entries):
        raise ValueError(f"n_shards is {manifest['n_shards']} and {len(entries)} are described")
    for index, entry in enumerate(entries):
        _text(entry, "file", "sha256", "lengths_sha256")
        _whole(entry, "size")
        if entry["file"] != f"{array_record_shards.shard_name(index, len(entries))}.array_record":
            raise ValueError(f"shard {index} has the file {entry['file']!r:.60}")
