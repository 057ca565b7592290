"""Base class of codecs, and checks of their input: byte strings, sequences of ids, vocabulary sizes."""

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from compressed_lm.coding import bits
from compressed_lm.errors import InputError
from compressed_lm.settings import Limits

STREAM_BYTES = 1 << 20
"""Bytes of text that `encode_stream` reads before it encodes them."""

DOCUMENT_BYTES = 64
"""What a document adds to that count besides its text, so that memory is bounded for empty ones too."""

_BYTE_FORMATS = ("B", "b", "c")


class CheckedCodec(abc.ABC):
    """Base class of all codecs: public methods that check their input and call the methods of a family.

    A family defines `build`, `files`, `from_files`, `_encode_documents` and `_decode_sequences`; `_decode_unfinished`
    if an unfinished sequence decodes differently, and `_lengths` if its ids have lengths. One that runs M1 also defines
    `_encode_checked_stream`, and `_decode_known` if that is faster. See `protocol.Codec` for the other attributes and
    the public methods.

    Lists, help texts, plots, reports and seqio tasks read the class attributes:

    Attributes:
        name: name of the family, with which specs begin.
        summary: one-line description.
        example: spec for help texts; "" for a family that is not built from a spec.
        limits: option -> allowed values.
        color: color in plots (hex RGB); None for one derived from the name.
        marker: Matplotlib marker in plots.
        task_specs: specs that are registered as seqio tasks; one without options means the only codec of the family.
    """

    name: str
    summary: ClassVar[str]
    example: ClassVar[str] = ""
    limits: ClassVar[Mapping[str, Limits]] = {}
    color: ClassVar[str | None] = None
    marker: ClassVar[str] = "X"
    task_specs: ClassVar[tuple[str, ...]] = ()
    spec: str
    vocab_size: int
    fingerprint: str
    flops_per_byte: float
    m1_flops_per_byte: float
    window_bits: int | None
    m1_hash: str | None
    restart_tokens: int | None

    @classmethod
    @abc.abstractmethod
    def build(cls, *args: Any, **kwargs: Any) -> "CheckedCodec":
        """Builds a codec from the options of a spec, and from the resources that the family needs."""

    @classmethod
    @abc.abstractmethod
    def from_files(cls, files: dict[str, bytes], *args: Any, **kwargs: Any) -> "CheckedCodec":
        """Loads a codec from the content of its files, by name, and the options of its spec."""

    @abc.abstractmethod
    def files(self) -> dict[str, bytes]:
        """Returns the content of the files of a saved codec, by name."""

    @classmethod
    def style(cls, options: Mapping[str, str]) -> tuple[str | None, str]:
        """Returns the color and the marker of the codec with these options of a spec."""
        del options
        return cls.color, cls.marker

    @classmethod
    def n_windows(cls, **options: Any) -> int | None:
        """Returns the number of windows that are listed to build a codec with these options; None for no list."""
        del options
        return None

    def encode(self, data: bytes) -> np.ndarray:
        return self._encode_documents([checked_bytes(data, self.spec)])[0]

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        return self._encode_documents(checked_documents(documents, self.spec))

    def encode_stream(self, documents: Iterable[bytes]) -> Iterator[np.ndarray]:
        members = _members(documents, self.spec, "documents", one="encode(data)")
        checked = (d if type(d) is bytes else checked_bytes(d, f"{self.spec}, document {i},") for i, d in members)
        return self._encode_checked_stream(checked)

    def _encode_checked_stream(self, documents: Iterable[bytes]) -> Iterator[np.ndarray]:
        """Yields the ids of each document. A family that runs a model replaces it, to keep the devices full."""
        batch: list[bytes] = []
        n_bytes = 0
        for document in documents:
            batch.append(document)
            n_bytes += len(document) + DOCUMENT_BYTES
            if n_bytes >= STREAM_BYTES:
                yield from self.encode_batch(batch)
                batch, n_bytes = [], 0
        if batch:
            yield from self.encode_batch(batch)

    def decode(self, ids: np.ndarray) -> bytes:
        return self._decode_sequences([self._checked(ids)])[0]

    def decode_batch(self, ids: Sequence[np.ndarray]) -> list[bytes]:
        sequences = _members(ids, self.spec, "sequences of ids", one="decode(ids)")
        return self._decode_sequences([self._checked(s, f"{self.spec}, sequence {i},") for i, s in sequences])

    def decode_known(self, ids: Sequence[np.ndarray], documents: Sequence[bytes]) -> list[bytes]:
        sequences = [self._checked(s, f"{self.spec}, sequence {i},") for i, s in enumerate(ids)]
        known = checked_documents(documents, self.spec)
        if len(sequences) != len(known):
            raise InputError(
                f"{self.spec} was given {len(sequences)} sequences of ids of {len(known)} documents; as many were "
                "expected."
            )
        return self._decode_known(sequences, known)

    def decode_partial(self, ids: np.ndarray) -> bytes:
        return self._decode_unfinished(self._checked(ids))

    def token_byte_lengths(self, ids: np.ndarray) -> np.ndarray | None:
        return self._lengths(self._checked(ids))

    def _checked(self, ids: object, name: str = "") -> np.ndarray:
        return checked_ids(ids, self.vocab_size, name or self.spec)

    @abc.abstractmethod
    def _encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """Returns the ids of each document, int32[T]."""

    @abc.abstractmethod
    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        """Returns the document of each sequence of ids, int32[T]."""

    def _decode_known(self, sequences: Sequence[np.ndarray], documents: Sequence[bytes]) -> list[bytes]:
        del documents
        return self._decode_sequences(sequences)

    def _decode_unfinished(self, ids: np.ndarray) -> bytes:
        return self._decode_sequences([ids])[0]

    def _lengths(self, ids: np.ndarray) -> np.ndarray | None:
        return None


WHOLE_BITS = Limits(choices=tuple(1 << bits for bits in range(1, 17)))
"""Vocabulary sizes of codecs whose tokens are fields of bits."""


def checked_token_bits(v: int, family: str) -> int:
    """Returns log2 of a vocabulary size. Raises InputError unless it is a power of two between 2 and 2**16."""
    try:
        return bits.token_bits(v)
    except ValueError as error:
        raise InputError(f"{family}(v={v}) was requested. {error}") from None


def checked_bytes(data: Any, name: str) -> bytes:
    """Returns one document as bytes.

    Args:
        data: bytes, or a one-dimensional bytes-like object: a bytearray, a memoryview, a mapped file.
        name: name of the receiver, for messages.

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


def checked_documents(documents: Any, name: str) -> list[bytes]:
    """Returns several documents as a list of bytes; see `checked_bytes`.

    Raises:
        InputError: this is one document, an array of NumPy byte strings, or an item is not bytes.
    """
    if getattr(getattr(documents, "dtype", None), "kind", "") == "S":
        raise InputError(
            f"{name} was given {_described(documents)} of documents, in which NumPy drops NUL bytes at their ends. "
            "Pass a list of bytes."
        )
    members = _members(documents, name, "documents", one="encode(data)")
    return [d if type(d) is bytes else checked_bytes(d, f"{name}, document {i},") for i, d in members]


def _members(batch: Any, name: str, wanted: str, *, one: str) -> Iterable[tuple[int, Any]]:
    """Returns the numbered items of a batch. Raises InputError if it is not a batch."""
    several = hasattr(batch, "__iter__") and not isinstance(
        batch, str | bytes | bytearray | memoryview | Mapping | set | frozenset
    )
    if several and hasattr(batch, "ndim"):  # rows of an array, not its numbers
        several = batch.ndim > 1 or (batch.ndim == 1 and getattr(batch.dtype, "kind", "") == "O")
    if not several:
        raise InputError(
            f"{name} was given {_described(batch)} as a batch; a list of {wanted} was expected. Pass a list, or call "
            f"{one} for one."
        )
    return enumerate(batch)


def checked_ids(ids: Any, limit: int, name: str) -> np.ndarray:
    """Returns a sequence of ids as int32[T].

    Args:
        ids: one-dimensional sequence of whole numbers: a list, or an array of NumPy, JAX or PyTorch.
        limit: number of ids; the largest is one less.
        name: name of the receiver, for messages.

    Raises:
        InputError: they are something else (text, fractions, booleans, a two-dimensional array, one number), or an id
            is out of range.
    """
    if type(ids) is np.ndarray and ids.dtype == np.int32 and ids.ndim == 1:  # the usual case, in one pass
        if not ids.size or ids.view(np.uint32).max() < limit:
            return ids
    array = whole_numbers(ids, name)
    if array.size and (array.min() < 0 or array.max() >= limit):
        raise InputError(
            f"Ids between {array.min()} and {array.max()} were given to {name}, whose ids are 0 to {limit - 1}. Remove "
            "end-of-document and padding ids before decoding."
        )
    return array.astype(np.int32, copy=False)


def whole_numbers(ids: Any, name: str) -> np.ndarray:
    """Returns a sequence of whole numbers as an array [T]; its dtype is object if they are too large for int64.

    Raises:
        InputError: as `checked_ids`.
    """
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "iu":
        return ids
    expected = "a one-dimensional sequence of whole numbers, int[T], was expected"
    if isinstance(ids, str | bytes | bytearray | memoryview):
        raise InputError(f"{name} was given {_described(ids)} as ids; {expected}. Pass the output of `encode`.")
    given = ids.tolist() if isinstance(ids, np.ndarray) and ids.dtype == object else ids
    given = list(given) if isinstance(given, Iterator) else given
    try:
        array = np.asarray(given)
    except Exception as error:  # arrays of other libraries may raise any type
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
        return np.array([int(member) for member in members], object)  # NumPy converted them to float
    raise InputError(f"{name} was given {_described(ids)} as ids, the first of them {array[0]!r}; {expected}.")


def _described(value: Any) -> str:
    """Returns a short description of a value, for messages."""
    if value is None:
        return "None"
    kind = type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"an array ({kind}) of {value.dtype} and shape {tuple(value.shape)}"
    size = f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}{size}"
