"""Mutations of files: of bytes, of JSON values, and of content with a corrected checksum."""

import copy
import hashlib
import json
import struct
import zlib

import numpy as np

WRONG = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 255, 65536, 2**28, 2**31, 2**31 - 1, 2**62, 2**63, 2**64, -(2**63), 10**30),
    *(0.5, -0.0, 1e-320, 1e308, "", "0", "x", "..", "../x", "/etc/passwd", "/dev/zero", "a\x00b", "\x1b[2J", "dense"),
    *("\ud800", "int(b=4)", "relu", [], {}, [[]], [1, 2, 3], [0, 0], [2**40], [-1], {"": 0}, ["x"] * 50, "x" * 10_000),
)
RAW = (
    *(b"NaN", b"-Infinity", b"1e999", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"1" * 5000, b'"\\ud800"', b"''"),
    *(b'{"a":1,"a":2}', b"nul", b""),
)


def flip(rng: np.random.Generator, content: bytes) -> bytes:
    """Returns the content with a few bits or bytes changed."""
    if not content:
        return b"\x00"
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(out)))
        out[at] = out[at] ^ (1 << int(rng.integers(8))) if rng.random() < 0.7 else int(rng.integers(256))
    return bytes(out)


def cut(rng, content):
    """Returns the beginning of a file, or the file without a middle part."""
    a, b = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    return content[:a] if rng.random() < 0.6 else content[:a] + content[b:]


def grow(rng, content):
    """Returns the content with a repeated part, inserted zeros or noise, or many bytes appended."""
    a, b = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    b = min(b, a + 4096)
    piece = (content[a:b], bytes(b - a), rng.bytes(b - a), b"\xff" * 8, content[:64])[int(rng.integers(5))]
    return content[:a] + piece + content[a:]


def write_over(rng, content):
    """Returns the content with a number of 2, 4 or 8 bytes overwritten by values at which sizes overflow."""
    if len(content) < 8:
        return flip(rng, content)
    value = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
    value, width = value[int(rng.integers(len(value)))], (2, 4, 8)[int(rng.integers(3))]
    # Headers are at the beginning or the end of files.
    at = int(rng.integers(len(content) - 7) if rng.random() < 0.4 else rng.integers(min(64, len(content) - 7)))
    at = len(content) - 8 - at if rng.random() < 0.2 else at
    number = (value % (1 << 8 * width)).to_bytes(width, "little" if rng.random() < 0.8 else "big")
    return content[:at] + number + content[at + width :]


def anything(rng, content):
    """Returns the content changed without regard to its format."""
    change = (flip, flip, cut, grow, write_over)[int(rng.integers(5))]
    return change(rng, content)


def json_object(rng, content):
    """Returns a JSON text with one value replaced, removed, moved or edited, or with changed bytes."""
    if rng.random() < 0.1:
        return anything(rng, content)
    return json.dumps(edited(rng, json.loads(content))).encode() if rng.random() < 0.9 else _raw(rng, content)


def json_lines(rng, content):
    """Returns JSON lines with one line changed, removed, duplicated or inserted."""
    lines = content.splitlines(keepends=True) or [b""]
    at, chance = int(rng.integers(len(lines))), rng.random()
    if chance < 0.6:
        lines[at] = json_object(rng, lines[at].strip() or b"{}") + b"\n"
    elif chance < 0.7:
        lines.insert(at, RAW[int(rng.integers(len(RAW)))] + b"\n")
    elif chance < 0.8:
        del lines[at]
    else:
        return anything(rng, content)
    return b"".join(lines)


def _raw(rng, content):
    """Returns a JSON text with a value replaced by text that json.dumps never writes."""
    value = json.loads(content)
    path = _path(rng, value)
    if not path:
        return RAW[int(rng.integers(len(RAW)))]
    _set(value, path, "@@@")
    return json.dumps(value).encode().replace(b'"@@@"', RAW[int(rng.integers(len(RAW)))])


def edited(rng, value):
    """Returns a JSON value with one or two parts changed."""
    value = copy.deepcopy(value)
    for _ in range(1 + (rng.random() < 0.2)):
        path = _path(rng, value)
        if not path:
            return WRONG[int(rng.integers(len(WRONG)))]
        parent, key, old = _parent(value, path), path[-1], _get(value, path)
        chance = rng.random()
        if chance < 0.5:
            parent[key] = copy.deepcopy(WRONG[int(rng.integers(len(WRONG)))])
        elif chance < 0.65:
            del parent[key]
        elif chance < 0.85 and isinstance(old, int | float) and not isinstance(old, bool):
            parent[key] = (old + 1, old - 1, old * 2, old * 1000, -old, old / 3, old + 1e-3)[int(rng.integers(7))]
        elif chance < 0.85 and isinstance(old, str):
            parent[key] = flip(rng, old.encode() or b"x").decode("latin-1")
        else:
            parent[key] = copy.deepcopy(_get(value, _path(rng, value)))
    return value


def _path(rng, value):
    """Returns a path to a random part of a value; all depths are about equally likely."""
    path = []
    while isinstance(value, dict | list) and value and (not path or rng.random() < 0.8):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        path.append(keys[int(rng.integers(len(keys)))])
        value = value[path[-1]]
    return path


def _get(value, path):
    for key in path:
        value = value[key]
    return value


def _parent(value, path):
    return _get(value, path[:-1])


def _set(value, path, new):
    _parent(value, path)[path[-1]] = new


def encoded_file(rng, content):
    """Returns a file of `encode` with another header or other ids, and a correct checksum."""
    (length,) = struct.unpack_from("<I", content, 8)
    head, ids = content[12 : 12 + length], content[12 + length : -4]
    head, ids = (json_object(rng, head), ids) if rng.random() < 0.6 else (head, anything(rng, ids))
    body = content[:8] + struct.pack("<I", len(head)) + head + ids
    return body + struct.pack("<I", zlib.crc32(body))


def container(rng, content, *, deflated=False):
    """Returns an array file with another header or other payloads, and a correct checksum."""
    (length,) = struct.unpack_from("<I", content, 8)
    head, payload = content[12 : 12 + length], content[12 + length : -32]
    head = zlib.decompress(head) if deflated else head
    head, payload = (json_object(rng, head), payload) if rng.random() < 0.7 else (head, anything(rng, payload))
    head = zlib.compress(head) if deflated else head
    body = content[:8] + struct.pack("<I", len(head)) + head + payload
    return body + hashlib.sha256(body).digest()


def deflated_container(rng, content):
    """Returns an array file with a deflated header, changed like `container`."""
    return container(rng, content, deflated=True)


def with_sha256(rng, content):
    """Returns a file that ends in the SHA-256 of the rest, with the rest changed and a correct hash."""
    body = anything(rng, content[:-32])
    return body + hashlib.sha256(body).digest()


def manifest(rng, content):
    """Returns a manifest with another value and a correct checksum."""
    values = json.loads(content)
    del values["checksum"]
    values = edited(rng, values)
    if isinstance(values, dict):
        try:
            text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
            values["checksum"] = hashlib.sha256(text.encode()).hexdigest()
        except (TypeError, UnicodeEncodeError):  # keys of several types, halves of surrogate pairs
            values["checksum"] = "0"
    return json.dumps(values).encode()


def text(rng, content):
    """Returns a text with words removed, duplicated or replaced by numbers and brackets."""
    if rng.random() < 0.4:
        return anything(rng, content)
    words = content.split(b" ")
    at = int(rng.integers(len(words)))
    new = (b"", b"-1", b"1e400", b"None", b"@x", b"%y", b"(", b"]" * 200, b"((" * 2000, b"'", b"a" * 5000, b"\x00")
    words[at] = new[int(rng.integers(len(new)))] if rng.random() < 0.7 else words[int(rng.integers(len(words)))]
    return b" ".join(words)
