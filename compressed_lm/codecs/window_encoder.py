"""Encoder of Equal-Info Windows on the local devices: continuous batching of segments.

The batch slots of all devices take segments from a queue. A slot's text is a stream of segments with a mark after each;
the compiled program restarts M1 at a mark, so that no step is lost between two segments. While the devices run one
call, the host reads documents, prepares the next call and gathers the codes of the one before. The state of the slots
stays on the devices.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import jax
import numpy as np

from compressed_lm import exact
from compressed_lm.codecs import device_windows, local_devices
from compressed_lm.codecs.device_windows import MARK, TURNS
from compressed_lm.codecs.local_devices import Work
from compressed_lm.codecs.window_rules import WindowRules

if TYPE_CHECKING:  # it calls this module
    from compressed_lm.codecs.device_m1 import DeviceM1

READ_AHEAD = 40 << 10
"""Bytes of text per batch slot that are read before the segments before them are yielded."""

SEGMENT_COST = 64
"""What a segment adds to that count besides its text, so that memory is bounded for empty ones too."""

PIECE = 10 << 10
"""Bytes of a segment that are copied into a slot at once."""

WORTH_COMPILING = 1 << 15
"""Steps of a slot that take about as long as to compile the program for fewer slots, on CPU."""

_VISIBLE = 2 * TURNS  # bytes after a slot's last known place: a call starts before the results of the one before it


def encode(m1: "DeviceM1", segments: Iterable[bytes], rules: WindowRules) -> Iterator[np.ndarray]:
    """Yields the window codes of each segment, uint32[N, K]: 16-bit limbs, most significant first.

    Segments are yielded in order and start in order. Once the input has ended, the longest of those that wait start
    first, so that the slots end at about the same time.

    Args:
        m1: the byte model; it is reset at the start of each segment.
        segments: texts. At most `READ_AHEAD` bytes per batch slot, and one segment, are read ahead.
        rules: parameters of the codec.
    """
    return _Encoder(m1, iter(segments), rules).run()


@dataclasses.dataclass(eq=False)
class _Segment:
    text: bytes
    n_copied: int = 0
    codes: list[np.ndarray] = dataclasses.field(default_factory=list)
    done: bool = False


@dataclasses.dataclass
class _Call:
    """Results of a call on the devices, and where each slot's row began."""

    results: tuple[jax.Array, ...]
    starts: np.ndarray


class _Encoder:
    """Segments of one stream, and the slots that process them.

    Places in a slot's stream are counted from its beginning. `known` is the place of each slot after the last collected
    call, `filled` the end of the text that it was given, `origin` the place of the first column of its buffer, and
    `starts` the place at which its last row began.
    """

    def __init__(self, m1: "DeviceM1", source: Iterator[bytes], rules: WindowRules) -> None:
        self._m1, self._source, self._rules = m1, source, rules
        self._program = _program(m1.config, rules)
        self._back = rules.open_bytes + 1
        self._unread, self._held, self._slots = True, 0, 0
        self._ordered: collections.deque[_Segment] = collections.deque()
        self._queue: collections.deque[_Segment] = collections.deque()

    def run(self) -> Iterator[np.ndarray]:
        call = None
        while True:
            self._read()
            while self._ordered and self._ordered[0].done:
                yield self._finished(self._ordered.popleft())
            if not self._ordered and not self._unread:
                return
            if not self._slots and self._queue:
                self._start()
            if not self._slots:
                continue
            if call and (chosen := self._worth_keeping()) is not None:
                self._collect(call)
                call = None
                self._keep(chosen)
                continue
            self._refill()
            latest = self._dispatch()
            if call:
                self._collect(call)
            call = latest

    def _read(self) -> None:
        bound = READ_AHEAD * (self._slots or local_devices.block_rows())
        while self._unread and (self._held < bound or not self._ordered):
            text = next(self._source, None)
            if text is None:
                self._unread = False
                self._queue = collections.deque(sorted(self._queue, key=lambda segment: -len(segment.text)))
                return
            segment = _Segment(text, done=not text)
            self._held += len(text) + SEGMENT_COST
            self._ordered.append(segment)
            if text:
                self._queue.append(segment)

    def _finished(self, segment: _Segment) -> np.ndarray:
        self._held -= len(segment.text) + SEGMENT_COST
        return np.concatenate([np.zeros((0, self._rules.n_limbs), np.uint32), *segment.codes])

    def _start(self) -> None:
        """Makes the slots: for all devices, or fewer if the whole input is known to need fewer."""
        n_rows = local_devices.block_rows() if self._unread else len(self._queue) // 2 + 1
        devices = jax.local_device_count()
        self._slots = local_devices.slot_count(n_rows) * devices
        state = device_windows.initial_state(self._m1.config, self._slots, self._rules)
        state["place"] = np.full(self._slots, self._back, np.int32)
        self._state = local_devices.divided(state)
        # The unread text is at most _VISIBLE bytes before a piece is added, and a row may end beyond the text.
        self._buffer = np.full((self._slots, self._back + PIECE + 1 + 2 * _VISIBLE), -1, np.int16)
        self._known, self._filled = np.zeros(self._slots, np.int64), np.zeros(self._slots, np.int64)
        self._origin, self._starts = self._known - self._back, self._known - self._back
        self._running: list[collections.deque[_Segment]] = [collections.deque() for _ in range(self._slots)]

    def _refill(self) -> None:
        """Gives text to the slots that could run out of it in this call, those with the least first."""
        for slot in np.flatnonzero(self._filled - self._known < _VISIBLE).tolist():
            segments = self._running[slot]
            if segments and segments[-1].n_copied < len(segments[-1].text):
                self._copy(slot, segments[-1])
        while self._queue:
            slot = int(np.argmin(self._filled - self._known))
            if self._filled[slot] - self._known[slot] >= _VISIBLE:
                return
            segment = self._queue.popleft()
            self._running[slot].append(segment)
            self._copy(slot, segment)

    def _copy(self, slot: int, segment: _Segment) -> None:
        """Copies the next piece of a segment into a slot's buffer, and a mark after the last piece."""
        piece = np.frombuffer(
            segment.text, np.uint8, min(PIECE, len(segment.text) - segment.n_copied), segment.n_copied
        )
        segment.n_copied += len(piece)
        last = segment.n_copied == len(segment.text)
        row = self._buffer[slot]
        end = int(self._filled[slot] - self._origin[slot])
        if end + len(piece) + last + _VISIBLE > len(row):
            used = int(self._known[slot] - self._origin[slot]) - self._back
            row[: end - used] = row[used:end].copy()
            row[end - used :] = -1
            self._origin[slot] += used
            end -= used
        row[end : end + len(piece)] = piece
        if last:
            row[end + len(piece)] = MARK
        self._filled[slot] += len(piece) + last

    def _dispatch(self) -> _Call:
        starts = self._known - self._back
        first = np.arange(self._slots) * self._buffer.shape[1] + starts - self._origin
        text = self._buffer.reshape(-1)[first[:, None] + np.arange(self._back + _VISIBLE)]
        moved = (starts - self._starts).astype(np.int32)
        self._starts = starts
        self._state, *results = self._program(
            self._m1.device_params, (self._state, *local_devices.by_device((text, moved)))
        )
        return _Call(tuple(results), starts)

    def _collect(self, call: _Call) -> None:
        """Waits for a call, and appends the codes of its windows to their segments."""
        place, n_turns, n_busy, closed, codes = local_devices.fetched(call.results)
        self._known = call.starts + place
        steps = int(n_turns.max())
        local_devices.add_work(Work(steps, steps * self._slots, steps * self._slots - int(n_busy.sum())))
        kinds = closed[closed > 0]
        codes = codes[closed > 0]
        ends = collections.deque((np.flatnonzero(kinds == device_windows.LAST) + 1).tolist())
        bounds = np.cumsum(np.count_nonzero(closed, axis=1)).tolist()
        for segments, (begin, end) in zip(self._running, itertools.pairwise([0, *bounds]), strict=True):
            while ends and ends[0] <= end:
                stop = ends.popleft()
                segments[0].codes.append(codes[begin:stop])
                segments.popleft().done = True
                begin = stop
            if begin < end:
                segments[0].codes.append(codes[begin:end])

    def _worth_keeping(self) -> np.ndarray | None:
        """Returns the slots to keep if the others have nothing left to do and their steps cost more than compiling.

        Other devices than CPU take about as long for few slots as for many.
        """
        if self._unread or self._queue or jax.default_backend() != "cpu":
            return None
        left = self._filled - self._known
        for slot, segments in enumerate(self._running):
            left[slot] += sum(len(segment.text) - segment.n_copied for segment in segments)
        n_busy = int(np.count_nonzero(left))
        n_slots = local_devices.slot_count(n_busy) * jax.local_device_count()
        if n_slots < n_busy or (self._slots - n_slots) * left.max() < WORTH_COMPILING:
            return None
        return np.argsort(left == 0, kind="stable")[:n_slots]

    def _keep(self, chosen: np.ndarray) -> None:
        """Keeps some of the slots, in this order, between two calls."""
        state = local_devices.fetched(self._state)
        self._slots = len(chosen)
        self._state = local_devices.divided(jax.tree.map(lambda array: array[chosen], state))
        self._buffer, self._known, self._filled, self._origin, self._starts = (
            array[chosen] for array in (self._buffer, self._known, self._filled, self._origin, self._starts)
        )
        self._running = [self._running[slot] for slot in chosen]


@functools.lru_cache(maxsize=32)
def _program(config: exact.ExactConfig, rules: WindowRules) -> Callable:
    return local_devices.on_devices(functools.partial(device_windows.encode_turns, config=config, rules=rules))
