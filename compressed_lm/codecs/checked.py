"""Base class of codecs, and checks of their input: byte strings, sequences of ids, sizes of vocabularies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from compressed_lm.coding import bits
from compressed_lm.errors import InputError
from compressed_lm.settings import Limits

_BYTE_FORMATS = ("B", "b", "c")


class CheckedCodec:
    """The public methods of every codec, which check what they are given and hand it to those that a family defines.

    A family defines `_encode_documents(list[bytes]) -> list[int32[T]]` and `_decode_sequences(list[int32[T]]) ->
    list[bytes]`; `_decode_unfinished` where an unfinished sequence is not decoded like a finished one, and `_lengths`
    where its ids have lengths. See `protocol.Codec` for the methods here.

    What lists, help texts, plots, reports and seqio tasks say about a family, they read from its class:

    Attributes:
        name: the family, as specs begin.
        summary: what it is, in one line.
        example: the spec that help texts show; "" for a family that is not built from a spec.
        limits: option -> the values that it takes.
        color: of its points and lines in plots (hex RGB); None for one derived from the name.
        marker: of its points in plots, as Matplotlib names them.
        task_specs: specs that are registered as seqio tasks; one without options means the only codec of the family.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    example: ClassVar[str] = ""
    limits: ClassVar[Mapping[str, Limits]] = {}
    color: ClassVar[str | None] = None
    marker: ClassVar[str] = "X"
    task_specs: ClassVar[tuple[str, ...]] = ()
    spec: str
    vocab_size: int

    @classmethod
    def style(cls, options: Mapping[str, str]) -> tuple[str | None, str]:
        """Returns the color and the marker of the codec with these options of a spec."""
        del options
        return cls.color, cls.marker

    @classmethod
    def n_windows(cls, **options) -> int | None:
        """Returns the number of windows that building the codec with these options lists; None for none."""
        del options
        return None

    def encode(self, data: bytes) -> np.ndarray:
        return self._encode_documents([checked_bytes(data, self.spec)])[0]

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        return self._encode_documents(checked_documents(documents, self.spec))

    def decode(self, ids: np.ndarray) -> bytes:
        return self._decode_sequences([self._checked(ids)])[0]

    def decode_batch(self, ids: Sequence[np.ndarray]) -> list[bytes]:
        sequences = _members(ids, self.spec, "sequences of ids", one="decode(ids)")
        return self._decode_sequences([self._checked(s, f"{self.spec}, sequence {i},") for i, s in sequences])

    def decode_partial(self, ids: np.ndarray) -> bytes:
        return self._decode_unfinished(self._checked(ids))

    def token_byte_lengths(self, ids: np.ndarray) -> np.ndarray | None:
        return self._lengths(self._checked(ids))

    def _checked(self, ids, name: str = "") -> np.ndarray:
        return checked_ids(ids, self.vocab_size, name or self.spec)

    def _decode_unfinished(self, ids: np.ndarray) -> bytes:
        return self._decode_sequences([ids])[0]

    def _lengths(self, ids: np.ndarray) -> np.ndarray | None:
        return None


WHOLE_BITS = Limits(choices=tuple(1 << bits for bits in range(1, 17)))
"""Vocabularies whose tokens are fields of bits."""


def checked_token_bits(v: int, family: str) -> int:
    """log2 of a vocabulary whose tokens are fields of bits. Raises InputError where there is no such vocabulary."""
    try:
        return bits.token_bits(v)
    except ValueError as error:
        raise InputError(f"{family}(v={v}) was asked for. {error}") from None


def checked_bytes(data, name: str) -> bytes:
    """One document as bytes.

    Args:
        data: bytes, or another object that holds bytes in one row: a bytearray, a memoryview, a mapped file.
        name: of what it was given to, for the error.

    Raises:
        InputError: it is text, an array, a list or anything else.
    """
    if isinstance(data, bytes):
        return data
    if not hasattr(data, "dtype"):
        try:
            view = memoryview(data)
        except TypeError:
            pass
        else:
            if view.format in _BYTE_FORMATS:
                return view.tobytes()
    if isinstance(data, str):
        hint = 'Pass its bytes: text.encode("utf-8").'
    elif hasattr(data, "tobytes"):
        hint = "Pass its bytes: array.tobytes()."
    else:
        hint = 'Pass bytes, such as b"text", open(path, "rb").read() or text.encode("utf-8").'
    raise InputError(f"{name} was given {_described(data)} to encode; bytes were expected. {hint}")


def checked_documents(documents, name: str) -> list[bytes]:
    """Several documents as a list of bytes; see `checked_bytes`.

    Raises:
        InputError: one document instead of several, an array of NumPy's byte strings, or a member that is no bytes.
    """
    if getattr(getattr(documents, "dtype", None), "kind", "") == "S":
        raise InputError(
            f"{name} was given {_described(documents)} of documents, in which NumPy drops NUL bytes at their ends. "
            "Pass a list of bytes."
        )
    members = _members(documents, name, "documents", one="encode(data)")
    return [d if type(d) is bytes else checked_bytes(d, f"{name}, document {i},") for i, d in members]


def _members(batch, name: str, wanted: str, *, one: str) -> Iterable[tuple[int, object]]:
    """What a batch holds, numbered. Raises InputError where it is no batch."""
    several = hasattr(batch, "__iter__") and not isinstance(
        batch, str | bytes | bytearray | memoryview | Mapping | set | frozenset
    )
    if several and hasattr(batch, "ndim"):  # an array's rows, not its numbers
        several = batch.ndim > 1 or (batch.ndim == 1 and getattr(batch.dtype, "kind", "") == "O")
    if not several:
        raise InputError(
            f"{name} was given {_described(batch)} as a batch; a list of {wanted} was expected. Pass a list, or call "
            f"{one} for one."
        )
    return enumerate(batch)


def checked_ids(ids, limit: int, name: str) -> np.ndarray:
    """A sequence of ids as int32[T].

    Args:
        ids: whole numbers in one row: a list, or an array of NumPy, JAX or PyTorch.
        limit: number of ids; the largest is one less.
        name: of what they were given to, for the error.

    Raises:
        InputError: they are something else (text, fractions, booleans, an array of two dimensions, one number), or one
            of them is out of range.
    """
    array = whole_numbers(ids, name)
    if array.size and (array.min() < 0 or array.max() >= limit):
        raise InputError(
            f"Ids between {array.min()} and {array.max()} were given to {name}, which knows 0 to {limit - 1}. Remove "
            "end-of-document and padding ids before decoding."
        )
    return array.astype(np.int32, copy=False)


def whole_numbers(ids, name: str) -> np.ndarray:
    """A sequence of whole numbers as an array [T], of Python's integers where they are too large for another.

    Raises:
        InputError: as `checked_ids`.
    """
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "iu":
        return ids
    expected = "whole numbers in one row, int[T], were expected"
    if isinstance(ids, str | bytes | bytearray | memoryview):
        raise InputError(f"{name} was given {_described(ids)} as ids; {expected}. Pass what `encode` returned.")
    given = ids.tolist() if isinstance(ids, np.ndarray) and ids.dtype == object else ids
    given = list(given) if isinstance(given, Iterator) else given
    try:
        array = np.asarray(given)
    except Exception as error:  # arrays of other libraries raise what they like
        raise InputError(f"{name} was given {_described(ids)} as ids ({error}); {expected}.") from error
    if array.ndim != 1:
        hint = "Pass them as a list." if array.ndim == 0 else "Pass its rows one by one, or call decode_batch."
        raise InputError(f"{name} was given {_described(ids)} as ids; {expected}. {hint}")
    if not array.size:
        return np.zeros(0, np.int32)
    members = given if isinstance(given, list | tuple) else ()
    flags = any(isinstance(member, bool | np.bool_) for member in members)
    if array.dtype.kind in "iu" and not flags:
        return array
    if members and not flags and all(isinstance(member, int | np.integer) for member in members):
        return np.array([int(member) for member in members], object)  # NumPy made fractions of them
    raise InputError(f"{name} was given {_described(ids)} as ids, the first of them {array[0]!r}; {expected}.")


def _described(value) -> str:
    """What a value is, as an error names it."""
    if value is None:
        return "None"
    kind = type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"an array ({kind}) of {value.dtype} and shape {tuple(value.shape)}"
    size = f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}{size}"
