"""`eiw`: Equal-Info Windows (Lester et al. 2024, section 2.4).

The text is cut so that each window compresses to exactly b bits; the coder starts afresh at every window, and window
boundaries stand at fixed token offsets. How the 2**b codes are given to texts is `fill`:

node    (default) the node rule of `coding.windows`: a bijection, lossless for any ids
best    the 2**b likeliest strings (`coding.compiler.compile_best_first`), for small b; lossless for any ids
delay   the paper's appendix A.5: enclosed cells, a window ends at the first text that has its code; lossless
paper   the paper's section 2.4: enclosed cells filled up with zeros, decoded by look-ahead; NOT lossless

Small windows under `node` and `best` are compiled to a dictionary, which needs no M1 at run time.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from compressed_lm.codecs.checked import WHOLE_BITS, CheckedCodec, checked_token_bits
from compressed_lm.coding import bits as bit_fields
from compressed_lm.coding import dictionary_file, windows
from compressed_lm.coding.compiler import compile_best_first, compile_windows
from compressed_lm.coding.dictionary import Dictionary
from compressed_lm.coding.range_coder import CorruptStream
from compressed_lm.errors import InputError

if TYPE_CHECKING:  # a compiled codec loads without JAX
    from compressed_lm.codecs.device_windows import WindowRules
    from compressed_lm.codecs.m1 import M1

FILLS = ("node", "best", "delay", "paper")
ALIGNMENTS = ("none", "word")
RESETS = ("1", "2", "never")

COMPILED_BITS = 16
"""Windows of up to this many bits are compiled to a dictionary once, and M1 never runs again."""

SEGMENT_BYTES = 10_240
"""Where windows are not listed, a window ends here at the latest, so that the parts of a long text are encoded side by
side. Windows decode without knowing it. The paper's examples have this length."""

DICTIONARY_FILE, M1_FILE = "dictionary.clmd", "m1.npz"


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of an `eiw` codec, checked.

    Attributes:
        b: bits of a window.
        v: vocabulary; tokens are log2(v) bits, at most b.
        align: "none", or "word": a window never runs over the start of a word.
        fill: see the module's docstring.
        m1_reset: M1 forgets the text before every window ("1"), every other one ("2") or "never" (the paper's A.2).
    """

    b: int = 16
    v: int = 65536
    align: str = "none"
    fill: str = "node"
    m1_reset: str = "1"

    def __post_init__(self):
        token_bits = checked_token_bits(self.v, "eiw")
        if not max(windows.MIN_BITS, token_bits) <= self.b <= windows.MAX_BITS:
            raise InputError(
                f"eiw(b={self.b},v={self.v}) was asked for; b from {windows.MIN_BITS} to {windows.MAX_BITS} was "
                f"expected (without windows, the codec is ac), and at least log2(v) = {token_bits}, since a token "
                "wider than a window could not tell where the last one ends. Choose a wider window or a smaller "
                "vocabulary."
            )
        for name, valid in (("align", ALIGNMENTS), ("fill", FILLS), ("m1_reset", RESETS)):
            if getattr(self, name) not in valid:
                raise InputError(f"{name}={getattr(self, name)} was given; expected one of {', '.join(valid)}.")
        if self.m1_reset != "1" and self.fill != "node":
            raise InputError(
                f"fill={self.fill} was given with m1_reset={self.m1_reset}; only fill=node can let M1 read on from one "
                "window to the next. Leave one of the two out."
            )
        if self.fill in ("delay", "paper") and self.b < windows.MIN_CELL_BITS:
            raise InputError(f"fill={self.fill} needs windows of b={windows.MIN_CELL_BITS} or more; b={self.b} given.")
        if self.fill == "best" and self.b > COMPILED_BITS:
            raise InputError(
                f"fill=best lists its 2**b texts, which is possible up to b={COMPILED_BITS}; b={self.b} given."
            )

    @property
    def compiled(self) -> bool:
        """Whether a dictionary holds all windows."""
        return self.b <= COMPILED_BITS and self.m1_reset == "1" and self.fill in ("node", "best")

    @property
    def spec(self) -> str:
        """The spelling, with everything that is not the default, and b and v."""
        default = Options()
        names = [f.name for f in dataclasses.fields(self)]
        shown = [n for n in names if n in ("b", "v") or getattr(self, n) != getattr(default, n)]
        return f"eiw({','.join(f'{n}={getattr(self, n)}' for n in sorted(shown))})"

    def context(self, m1_context: int) -> int:
        """Most bytes that M1 sees: enough for windows of 2 bits a byte, twice over, and no more than it can."""
        if self.m1_reset == "never":
            return m1_context
        return min(m1_context, int(self.m1_reset) * max(64, 4 * self.b))


class EIW(CheckedCodec):
    """Equal-Info Windows of b bits, cut into tokens of log2(V) bits.

    Attributes:
        options: see `Options`.
        m1: the byte model; None where a dictionary takes its place.
        dictionary: all windows, where they are listed; None otherwise.
    """

    name = "eiw"
    summary = (
        "Equal-Info Windows: M1 and the coder start anew whenever a window is full, so every window is exactly b bits; "
        "with align=word no window runs over the start of a word"
    )
    example = "eiw(b=16,v=65536,align=word)"
    limits = {"v": WHOLE_BITS}
    color, marker = "#0072B2", "D"
    task_specs = tuple(
        f"eiw(b={b},v={v}{align})"
        for b in (12, 16, 24, 32)
        for v in (256, 4096, 65536)
        for align in ("", ",align=word")
        if v <= 1 << b  # a token must not be wider than a window
    )
    _COLORS = {"12": "#009E73", "16": "#2986CC", "24": "#56B4E9", "32": "#8E7CC3"}  # by bits of a window
    _MARKERS = {"4096": "h", "65536": "*"}  # by vocabulary

    @classmethod
    def style(cls, options: Mapping[str, str]) -> tuple[str | None, str]:
        return cls._COLORS.get(options.get("b", ""), cls.color), cls._MARKERS.get(options.get("v", ""), cls.marker)

    @classmethod
    def n_windows(cls, **options) -> int | None:
        b = int(options["b"])
        return 1 << b if b <= COMPILED_BITS else None

    def __init__(
        self,
        options: Options,
        *,
        m1: "M1 | None" = None,
        dictionary: Dictionary | None = None,
        m1_hash: str,
        m1_flops_per_byte: float,
    ):
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
        m1: "M1",
        progress: Callable[[int], None] = lambda n_codes: None,
        dictionary: Dictionary | None = None,
    ) -> "EIW":
        """Compiles the dictionary where the options allow it.

        Args:
            b, v, align, fill, m1_reset: see `Options`.
            m1: the byte model.
            progress: called with the number of the 2**b codes found so far.
            dictionary: a dictionary compiled before for the same M1, b, alignment and fill, which another v can share.
        """
        options = Options(b=b, v=v, align=align, fill=fill, m1_reset=m1_reset)
        if not options.compiled:
            return cls(options, m1=m1, m1_hash=m1.hash, m1_flops_per_byte=m1.flops_per_byte)
        if dictionary is None:
            dictionary = compile_dictionary(m1, options, progress=progress)
        return cls(options, dictionary=dictionary, m1_hash=m1.hash, m1_flops_per_byte=m1.flops_per_byte)

    def files(self) -> dict[str, bytes]:
        if not self.dictionary:
            return {M1_FILE: self.m1.to_bytes()}
        header = {"spec": self.spec, "m1_hash": self.m1_hash, "m1_flops_per_byte": self.m1_flops_per_byte}
        return {DICTIONARY_FILE: dictionary_file.to_bytes(self.dictionary, header)}

    @classmethod
    def from_files(cls, files: dict[str, bytes], **options) -> "EIW":
        options = Options(**options)
        if options.compiled:
            return cls.from_dictionary(*read_dictionary(files[DICTIONARY_FILE]), options)
        from compressed_lm.codecs.m1 import M1

        m1 = M1.from_bytes(files[M1_FILE])
        return cls(options, m1=m1, m1_hash=m1.hash, m1_flops_per_byte=m1.flops_per_byte)

    @classmethod
    def from_dictionary(cls, dictionary: Dictionary, header: dict, options: Options) -> "EIW":
        """The codec of a compiled dictionary, M1 left out; `header` is what `files` wrote beside it."""
        if len(dictionary) != 1 << options.b:
            raise InputError(
                f"A dictionary of {len(dictionary)} entries was given for {options.spec}, which has {1 << options.b}. "
                "Give the one that was compiled for it."
            )
        known = {name: header[name] for name in ("m1_hash", "m1_flops_per_byte")}
        return cls(options, dictionary=dictionary, **known)

    @property
    def _is_listed(self) -> bool:
        """Whether tokens are the numbers of a dictionary."""
        return self.dictionary is not None and self._token_bits == self.window_bits

    def _encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        if self._is_listed:
            return self.dictionary.encode_batch(documents)
        if self.dictionary:
            codes = [c[:, None] for c in self.dictionary.encode_batch(documents)]
        else:
            codes = self._encode_online(documents)
        return [bit_fields.codes_to_tokens(c, self.window_bits, self._token_bits) for c in codes]

    def _encode_online(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        from compressed_lm.codecs import device_windows

        size = SEGMENT_BYTES if self.options.m1_reset == "1" else max(map(len, documents), default=0) or 1
        parts = [[d[i : i + size] for i in range(0, max(len(d), 1), size)] for d in documents]
        codes = iter(device_windows.encode(self.m1, list(itertools.chain.from_iterable(parts)), self._rules))
        return [np.concatenate([next(codes) for _ in p]) for p in parts]

    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        for ids in sequences:
            self._check_whole(ids)
        return self._decode_windows(sequences)

    def _decode_unfinished(self, ids: np.ndarray) -> bytes:
        return self._decode_windows([ids])[0]

    def _check_whole(self, ids: np.ndarray) -> None:
        """Raises CorruptStream unless the ids are whole windows and the zero bits that fill up the last token."""
        n_bits = len(ids) * self._token_bits
        n_fill = n_bits % self.window_bits
        if n_fill >= self._token_bits or (n_fill and ids[-1] & ((1 << n_fill) - 1)):
            raise CorruptStream(
                f"{len(ids)} ids are {n_bits // self.window_bits} windows of {self.window_bits} bits and {n_fill} bits "
                "more that no document ends in: they were truncated or changed. Restore them from their source, or "
                "call decode_partial for text that is still being written."
            )

    def _decode_windows(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        """The text of the whole windows of each sequence."""
        if self._is_listed:
            return self.dictionary.decode_batch(sequences)
        codes = [bit_fields.tokens_to_codes(ids, self._token_bits, self.window_bits) for ids in sequences]
        if self.dictionary:
            return self.dictionary.decode_batch([c[:, 0] for c in codes])
        from compressed_lm.codecs import device_windows

        return device_windows.decode(self.m1, codes, self._rules)

    @property
    def _rules(self) -> "WindowRules":
        from compressed_lm.codecs.device_windows import WindowRules

        o = self.options
        reset = 0 if o.m1_reset == "never" else int(o.m1_reset)
        return WindowRules(o.b, o.fill, o.align, reset, o.context(self.m1.config.context))

    def _lengths(self, ids: np.ndarray) -> np.ndarray | None:
        """Bytes of each window, where a token is a whole window; None where windows are cut into several tokens."""
        return self.dictionary.depth[ids] if self._is_listed else None


def compile_dictionary(m1: "M1", options: Options, *, progress: Callable[[int], None] = lambda n: None) -> Dictionary:
    """All windows of a codec whose `options.compiled` holds."""
    shared = dict(align=options.align, max_bytes=options.context(m1.config.context), progress=progress)
    if options.fill == "best":
        return compile_best_first(m1.byte_frequencies, n_entries=1 << options.b, **shared)
    return compile_windows(m1.byte_frequencies, bits=options.b, **shared)


def read_dictionary(content: bytes, name: str = DICTIONARY_FILE) -> tuple[Dictionary, dict]:
    """The dictionary in a file and its header. Raises InputError if it is no such file, or damaged."""
    try:
        dictionary, header = dictionary_file.from_bytes(content, name=name)
    except ValueError as error:
        raise InputError(str(error)) from error
    kinds = {"spec": str, "m1_hash": str, "m1_flops_per_byte": int | float}
    wrong = [key for key, kind in kinds.items() if not isinstance(header.get(key), kind)]
    if wrong or header["m1_flops_per_byte"] < 0:
        raise InputError(
            f"{name} has a header without a valid {' or '.join(wrong) or 'm1_flops_per_byte'}, though its checksum is "
            "right: another program wrote it. Build or fetch it again."
        )
    return dictionary, header


def dictionary_digest(dictionary: Dictionary) -> str:
    """Hex digest of a dictionary's entries and their numbers."""
    content = dictionary.parent.astype("<i4").tobytes() + dictionary.last.tobytes()
    return hashlib.sha256(content).hexdigest()
