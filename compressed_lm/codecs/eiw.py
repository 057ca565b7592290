"""`eiw`: Equal-Info Windows (Lester et al. 2024, section 2.4).

The text is split so that each window compresses to exactly b bits. The coder is reset at every window, and window
boundaries are at fixed token offsets. `fill` selects the mapping between texts and the 2**b codes:

node    (default) the node rule of `coding.windows`: a bijection, lossless for any ids
best    the 2**b most likely strings (`coding.compiler.compile_best_first`), for small b; lossless for any ids
delay   the paper's appendix A.5: enclosed cells, a window ends at the first text that has its code; lossless
paper   the paper's section 2.4: enclosed cells, zero-padded, decoded by look-ahead; NOT lossless

Small windows under `node` and `best` are compiled to a dictionary, which needs no M1 at run time.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compressed_lm.codecs.checked import WHOLE_BITS, CheckedCodec, checked_token_bits
from compressed_lm.codecs.document_segments import encode_segments
from compressed_lm.codecs.m1 import M1
from compressed_lm.codecs.window_rules import WindowRules
from compressed_lm.coding import bits as bit_fields
from compressed_lm.coding import dictionary_file, windows
from compressed_lm.coding.compiler import compile_best_first, compile_windows
from compressed_lm.coding.dictionary import Dictionary
from compressed_lm.errors import CorruptStream, InputError

FILLS = ("node", "best", "delay", "paper")
ALIGNMENTS = ("none", "word")
RESETS = ("1", "2", "never")

COMPILED_BITS = 16
"""Windows of up to this many bits are compiled to a dictionary once; M1 is not needed afterwards."""

SEGMENT_BYTES = 10_240
"""Without a dictionary, windows end at multiples of this, so that the segments of a long text are encoded in parallel.
Decoding does not depend on it. The paper's examples have this length."""

DICTIONARY_FILE, M1_FILE = "dictionary.clmd", "m1.npz"


@dataclasses.dataclass(frozen=True)
class Options:
    """Checked options of an `eiw` codec.

    Attributes:
        b: bits of a window.
        v: vocabulary size; tokens have log2(v) bits, at most b.
        align: "none", or "word": a window does not cross the start of a word.
        fill: see the module's docstring.
        m1_reset: M1 is reset before every window ("1"), every second window ("2") or "never" (the paper's A.2).
    """

    b: int = 16
    v: int = 65536
    align: str = "none"
    fill: str = "node"
    m1_reset: str = "1"

    def __post_init__(self) -> None:
        token_bits = checked_token_bits(self.v, "eiw")
        if not max(windows.MIN_BITS, token_bits) <= self.b <= windows.MAX_BITS:
            raise InputError(
                f"eiw(b={self.b},v={self.v}) was requested; b from {windows.MIN_BITS} to {windows.MAX_BITS} was "
                f"expected (without windows, the codec is ac), and at least log2(v) = {token_bits}, since with wider "
                "tokens the end of the last window would be unknown. Choose a wider window or a smaller vocabulary."
            )
        for name, valid in (("align", ALIGNMENTS), ("fill", FILLS), ("m1_reset", RESETS)):
            if getattr(self, name) not in valid:
                raise InputError(f"{name}={getattr(self, name)} was given; expected one of {', '.join(valid)}.")
        if self.m1_reset != "1" and self.fill != "node":
            raise InputError(
                f"fill={self.fill} was given with m1_reset={self.m1_reset}; only fill=node can keep M1's context from "
                "one window to the next. Omit one of the two."
            )
        if self.fill in ("delay", "paper") and self.b < windows.MIN_CELL_BITS:
            raise InputError(f"fill={self.fill} needs b of at least {windows.MIN_CELL_BITS}; b={self.b} was given.")
        if self.fill == "best" and self.b > COMPILED_BITS:
            raise InputError(
                f"fill=best lists its 2**b texts, which is possible up to b={COMPILED_BITS}; b={self.b} was given."
            )

    @property
    def compiled(self) -> bool:
        """Whether all windows are listed in a dictionary."""
        return self.b <= COMPILED_BITS and self.m1_reset == "1" and self.fill in ("node", "best")

    @property
    def spec(self) -> str:
        """The spec: b, v and all options that are not the default."""
        default = Options()
        names = [f.name for f in dataclasses.fields(self)]
        shown = [n for n in names if n in ("b", "v") or getattr(self, n) != getattr(default, n)]
        return f"eiw({','.join(f'{n}={getattr(self, n)}' for n in sorted(shown))})"

    def context(self, m1_context: int) -> int:
        """Returns M1's context length in bytes: twice what windows of 2 bits per byte need, at most M1's own."""
        if self.m1_reset == "never":
            return m1_context
        return min(m1_context, int(self.m1_reset) * max(64, 4 * self.b))


class EIW(CheckedCodec):
    """Equal-Info Windows of b bits, split into tokens of log2(V) bits.

    Attributes:
        options: see `Options`.
        m1: the byte model; None if a dictionary takes its place.
        dictionary: all windows, where they are listed; None otherwise.
    """

    name = "eiw"
    summary = (
        "Equal-Info Windows: M1 and the coder are reset when a window is full, so every window has exactly b bits; "
        "with align=word no window crosses the start of a word"
    )
    example = "eiw(b=16,v=65536,align=word)"
    limits = {"v": WHOLE_BITS}
    color, marker = "#0072B2", "D"
    task_specs = tuple(
        f"eiw(b={b},v={v}{align})"
        for b in (12, 16, 24, 32, 64, 128)
        for v in (256, 4096, 65536)
        for align in ("", ",align=word")
        if v <= 1 << b  # a token must not be wider than a window
    )
    _COLORS = {  # by bits of a window
        **{"12": "#009E73", "16": "#2986CC", "24": "#56B4E9"},
        **{"32": "#8E7CC3", "64": "#CC79A7", "128": "#882255"},
    }
    _MARKERS = {"4096": "h", "65536": "*"}  # by vocabulary size

    @classmethod
    def style(cls, options: Mapping[str, str]) -> tuple[str | None, str]:
        return cls._COLORS.get(options.get("b", ""), cls.color), cls._MARKERS.get(options.get("v", ""), cls.marker)

    @classmethod
    def n_windows(cls, **options: Any) -> int | None:
        b = int(options["b"])
        return 1 << b if b <= COMPILED_BITS else None

    def __init__(
        self,
        options: Options,
        *,
        m1: M1 | None = None,
        dictionary: Dictionary | None = None,
        m1_hash: str,
        m1_flops_per_byte: float,
    ) -> None:
        self.options, self.m1, self.dictionary = options, m1, dictionary
        self.spec, self.window_bits, self.vocab_size = options.spec, options.b, options.v
        self._token_bits = bit_fields.token_bits(options.v)
        reset = options.m1_reset
        group = math.lcm(options.b * (1 if reset == "never" else int(reset)), self._token_bits)
        self.restart_tokens = None if reset == "never" else group // self._token_bits
        self.m1_hash, self.m1_flops_per_byte = m1_hash, m1_flops_per_byte
        self.flops_per_byte = 0.0 if dictionary else m1_flops_per_byte
        tables = dictionary_digest(dictionary) if dictionary else m1_hash
        self.fingerprint = hashlib.sha256(f"compressed_lm eiw 2 {self.spec} {tables}".encode()).hexdigest()

    @classmethod
    def build(
        cls,
        *,
        b: int = 16,
        v: int = 65536,
        align: str = "none",
        fill: str = "node",
        m1_reset: str = "1",
        m1: M1,
        progress: Callable[[int], None] = lambda n_codes: None,
        dictionary: Dictionary | None = None,
    ) -> "EIW":
        """Builds the codec, and compiles the dictionary if the options allow it.

        Args:
            b, v, align, fill, m1_reset: see `Options`.
            m1: the byte model.
            progress: called with the number of the 2**b codes found so far.
            dictionary: an existing dictionary for the same M1, b, alignment and fill; it does not depend on v.
        """
        options = Options(b=b, v=v, align=align, fill=fill, m1_reset=m1_reset)
        if not options.compiled:
            return cls(options, m1=m1, m1_hash=m1.hash, m1_flops_per_byte=m1.flops_per_byte)
        if dictionary is None:
            dictionary = compile_dictionary(m1, options, progress=progress)
        return cls(options, dictionary=dictionary, m1_hash=m1.hash, m1_flops_per_byte=m1.flops_per_byte)

    def files(self) -> dict[str, bytes]:
        if not self.dictionary:
            return {M1_FILE: self._byte_model.to_bytes()}
        header = {"spec": self.spec, "m1_hash": self.m1_hash, "m1_flops_per_byte": self.m1_flops_per_byte}
        return {DICTIONARY_FILE: dictionary_file.to_bytes(self.dictionary, header)}

    @classmethod
    def from_files(cls, files: dict[str, bytes], **options: Any) -> "EIW":
        checked = Options(**options)
        if checked.compiled:
            return cls.from_dictionary(*read_dictionary(files[DICTIONARY_FILE]), checked)
        m1 = M1.from_bytes(files[M1_FILE])
        return cls(checked, m1=m1, m1_hash=m1.hash, m1_flops_per_byte=m1.flops_per_byte)

    @classmethod
    def from_dictionary(cls, dictionary: Dictionary, header: dict[str, Any], options: Options) -> "EIW":
        """Returns the codec of a compiled dictionary, without M1; `header` is that of the dictionary file."""
        if len(dictionary) != 1 << options.b:
            raise InputError(
                f"A dictionary of {len(dictionary)} entries was given for {options.spec}, which has {1 << options.b}. "
                "Give the dictionary that was compiled for it."
            )
        known = {name: header[name] for name in ("m1_hash", "m1_flops_per_byte")}
        return cls(options, dictionary=dictionary, **known)

    @property
    def _listed(self) -> Dictionary | None:
        """The dictionary if its numbers are the tokens; None otherwise."""
        return self.dictionary if self._token_bits == self.options.b else None

    @property
    def _byte_model(self) -> M1:
        """The byte model of a codec without a dictionary."""
        assert self.m1 is not None
        return self.m1

    def _encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        if listed := self._listed:
            return listed.encode_batch(documents)
        if not self.dictionary:
            return list(self._encode_checked_stream(documents))
        return [self._tokens(codes[:, None]) for codes in self.dictionary.encode_batch(documents)]

    def _encode_checked_stream(self, documents: Iterable[bytes]) -> Iterator[np.ndarray]:
        if self.dictionary:
            yield from super()._encode_checked_stream(documents)
            return
        encode = functools.partial(self._byte_model.engine.encode_windows, rules=self._rules)
        size = SEGMENT_BYTES if self.options.m1_reset == "1" else None
        for parts in encode_segments(documents, size, encode):
            yield self._tokens(np.concatenate(parts))

    def _tokens(self, codes: np.ndarray) -> np.ndarray:
        return bit_fields.codes_to_tokens(codes, self.options.b, self._token_bits)

    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        for ids in sequences:
            self._check_whole(ids)
        return self._decode_windows(sequences)

    def _decode_unfinished(self, ids: np.ndarray) -> bytes:
        return self._decode_windows([ids])[0]

    def _check_whole(self, ids: np.ndarray) -> None:
        """Raises CorruptStream unless the ids are whole windows and the zero padding of the last token."""
        n_bits, b = len(ids) * self._token_bits, self.options.b
        n_fill = n_bits % b
        if n_fill >= self._token_bits or (n_fill and ids[-1] & ((1 << n_fill) - 1)):
            raise CorruptStream(
                f"{len(ids)} ids are {n_bits // b} windows of {b} bits and {n_fill} more bits, which no document ends "
                "with: they were truncated or changed. Restore them from their source, or call decode_partial for text "
                "that is still being written."
            )

    def _decode_windows(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        """Returns the text of the complete windows of each sequence."""
        if listed := self._listed:
            return listed.decode_batch(sequences)
        codes = [bit_fields.tokens_to_codes(ids, self._token_bits, self.options.b) for ids in sequences]
        if self.dictionary:
            return self.dictionary.decode_batch([c[:, 0] for c in codes])
        return self._byte_model.engine.decode_windows(codes, self._rules)

    @property
    def _rules(self) -> WindowRules:
        o = self.options
        reset = 0 if o.m1_reset == "never" else int(o.m1_reset)
        return WindowRules(o.b, o.fill, o.align, reset, o.context(self._byte_model.config.context))

    def _lengths(self, ids: np.ndarray) -> np.ndarray | None:
        """Returns the bytes of each window if a token is a whole window; None otherwise."""
        return listed.depth[ids] if (listed := self._listed) else None


def compile_dictionary(m1: M1, options: Options, *, progress: Callable[[int], None] = lambda n: None) -> Dictionary:
    """Returns the dictionary of a codec for which `options.compiled` is true."""
    shared: dict[str, Any] = dict(align=options.align, max_bytes=options.context(m1.config.context), progress=progress)
    if options.fill == "best":
        return compile_best_first(m1.byte_frequencies, n_entries=1 << options.b, **shared)
    return compile_windows(m1.byte_frequencies, bits=options.b, **shared)


def read_dictionary(content: bytes, name: str = DICTIONARY_FILE) -> tuple[Dictionary, dict]:
    """Returns the dictionary in a file and its header. Raises InputError if it is another file, or damaged."""
    dictionary, header = dictionary_file.from_bytes(content, name=name)
    kinds = {"spec": str, "m1_hash": str, "m1_flops_per_byte": int | float}
    wrong = [key for key, kind in kinds.items() if not isinstance(header.get(key), kind)]
    if wrong or header["m1_flops_per_byte"] < 0:
        raise InputError(
            f"{name} has a header without a valid {' or '.join(wrong) or 'm1_flops_per_byte'}, though its checksum is "
            "right: another program wrote it. Build or fetch it again."
        )
    return dictionary, header


def dictionary_digest(dictionary: Dictionary) -> str:
    """Returns the hex digest of a dictionary's entries and their numbers."""
    content = dictionary.parent.astype("<i4").tobytes() + dictionary.last.tobytes()
    return hashlib.sha256(content).hexdigest()
