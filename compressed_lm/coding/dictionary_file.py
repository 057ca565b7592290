"""Dictionary files: the shape of the trie in depth-first order, about one byte per entry.

Layout: 8 magic bytes; format version, number of entries, header length (each u32, little endian); header (JSON, from
the caller); LZMA stream; SHA-256 of everything before it. The stream has, for the entries in alphabetical order, the
number of levels that the trie goes up before each (u32), its last byte (u8), and its number minus its position in that
order (u32, modulo 2**32). Each of the four bytes of a u32 has its own plane, so that unused bytes compress to nothing.
If entries are numbered alphabetically, as windows under the node rule are, the last four planes are zero.

The header length does not follow the magic bytes as in `io.container`, so only the frame is shared.
"""

import json
import lzma
import struct

import numpy as np

from compressed_lm.coding import longest_match
from compressed_lm.coding.dictionary import Dictionary
from compressed_lm.errors import InputError
from compressed_lm.io import strict_json
from compressed_lm.io.checksums import Frame

MAGIC = b"\x89CLD\r\n\x1a\n"  # as in PNG: a non-text byte, and line ends that a text-mode transfer would change
FORMAT_VERSION = 1

_FRAME = Frame(MAGIC, FORMAT_VERSION, "a dictionary file", "compressed_lm")
_FIELDS = struct.Struct("<III")
_BYTES_PER_ENTRY = 9
_MEMORY_LIMIT = 1 << 26
"""Memory limit of unpacking, in bytes; files of this module need a seventh."""


def to_bytes(dictionary: Dictionary, header: dict) -> bytes:
    """Returns the file of one dictionary.

    Args:
        dictionary: any dictionary; the numbers of its entries are kept.
        header: JSON object that the caller stores with it.
    """
    places = _alphabetical_places(dictionary)
    by_place = np.argsort(places)
    depth = dictionary.depth[by_place].astype(np.int64)
    ups = np.concatenate([[0], depth[:-1] + 1 - depth[1:]])
    payload = _planes(ups) + dictionary.last[by_place].tobytes() + _planes(by_place - np.arange(len(dictionary)))
    text = json.dumps(header, sort_keys=True).encode()
    body = MAGIC + _FIELDS.pack(FORMAT_VERSION, len(dictionary), len(text)) + text
    body += lzma.compress(payload, lzma.FORMAT_XZ, check=lzma.CHECK_NONE)
    return body + _FRAME.checksum(body)


def from_bytes(data: bytes, name: str = "the file") -> tuple[Dictionary, dict]:
    """Returns the dictionary and the header of a file that `to_bytes` made.

    Args:
        data: the file.
        name: name of the file, for messages.

    Raises:
        InputError: this is not a dictionary file, it has another version, or it was truncated or changed.
    """
    start = len(MAGIC) + _FIELDS.size
    body = _FRAME.body(data, name, least=start)
    version, n_entries, header_length = _FIELDS.unpack_from(body, len(MAGIC))
    _FRAME.check_version(version, name)
    if n_entries > longest_match.MAX_ENTRIES or header_length > len(body) - start:
        raise InputError(
            f"{name} claims {n_entries} entries, with {header_length} bytes of header in a file of {len(data)}; at "
            f"most {longest_match.MAX_ENTRIES} entries, and a header that fits in the file, were expected. Build or "
            "fetch it again."
        )
    header = _header(bytes(body[start : start + header_length]), name)
    payload = _unpacked(bytes(body[start + header_length :]), n_entries * _BYTES_PER_ENTRY, name)
    return Dictionary(*_entries(payload, n_entries, name)), header


def _alphabetical_places(dictionary: Dictionary) -> np.ndarray:
    """Returns the position of each entry in alphabetical order, which is depth-first order, int64[V]."""
    # By level and last byte, so that siblings are in order, each after all descendants of the one before.
    order = np.lexsort((dictionary.last, dictionary.depth))
    sizes = longest_match.subtree_sizes(dictionary.parent, order).tolist()
    parent, places, free = dictionary.parent.tolist(), [0] * len(dictionary), [0] * (len(dictionary) + 1)
    for i in order.tolist():
        place = free[parent[i]]  # the last element of `free` is for the single bytes, whose parent is -1
        places[i], free[i], free[parent[i]] = place, place + 1, place + sizes[i]
    return np.array(places)


def _entries(payload: bytes, n_entries: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns parent and last byte of each entry, by number."""
    planes = np.frombuffer(payload, np.uint8).reshape(_BYTES_PER_ENTRY, n_entries)
    depth = np.arange(1, n_entries + 1) - np.cumsum(_from_planes(planes[:4]), dtype=np.int64)
    numbers = (_from_planes(planes[5:]) + np.arange(n_entries, dtype=np.uint32)).astype(np.int64)
    if depth.min(initial=1) < 1 or not np.array_equal(np.sort(numbers), np.arange(n_entries)):
        raise InputError(
            f"{name} holds {n_entries} entries that do not form a dictionary, though its checksum is right. It was not "
            "written by this package; build it again."
        )
    parent, last = np.full(n_entries, -1, np.int32), np.empty(n_entries, np.uint8)
    last[numbers] = planes[4]
    levels = np.split(np.argsort(depth, kind="stable"), np.cumsum(np.bincount(depth)[1:-1]))
    for above, level in zip(levels, levels[1:], strict=False):
        parent[numbers[level]] = numbers[above[np.searchsorted(above, level) - 1]]
    return parent, last


def _planes(values: np.ndarray) -> bytes:
    return values.astype("<u4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _from_planes(planes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(planes.T).view("<u4")[:, 0]


def _header(text: bytes, name: str) -> dict:
    try:
        return strict_json.parse(text)
    except ValueError as error:
        raise InputError(
            f"{name} has a header of {len(text)} bytes that is not a JSON object ({error}), as expected. It was not "
            "written by this package; build it again."
        ) from None


def _unpacked(stream: bytes, size: int, name: str) -> bytes:
    """Returns the unpacked stream; unpacks at most one byte more than the expected size."""
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_LIMIT)
    try:
        payload = unpacker.decompress(stream, max_length=size + 1)
        whole = len(payload) == size and unpacker.eof and not unpacker.unused_data
    except (lzma.LZMAError, EOFError):
        whole = False
    if not whole:
        raise InputError(
            f"{name} holds {len(stream)} bytes that do not unpack to the {size} that were expected, though its "
            "checksum is right. It was not written by this package; build it again."
        )
    return payload
