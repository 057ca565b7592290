"""M1 on the CPU without JAX: work is divided among threads, each with its own state of the model."""

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from compressed_lm import exact
from compressed_lm.codecs import host_coder, host_windows
from compressed_lm.codecs.m1_engine import Decoded
from compressed_lm.codecs.window_rules import WindowRules
from compressed_lm.coding import tables, window_loops
from compressed_lm.coding.batches import read_only
from compressed_lm.coding.tables import END
from compressed_lm.exact.host import HostModel, n_threads
from compressed_lm.exact.kernels import State

TASK_BYTES = 4096
"""Bytes of text per task of a thread: long against the cost of starting a task, short against a document."""

READ_AHEAD = 4
"""Tasks per thread that are read ahead."""

STREAMS = 512
"""Most streams that are decoded together; each has space for the longest segment."""

JOBS = 4096
"""Most sequences of windows per task of a thread."""

SPACE = 2
"""Bytes per bit of a window that are reserved for its text at first; about half a byte is usual."""

SLOT_BYTES = 40 << 10
"""Bytes of text per slot of all threads that are encoded together."""

_Part = tuple[np.ndarray, np.ndarray, int, int]
"""A text, its table entries, and the first context and the one after the last."""

_T = TypeVar("_T")
_R = TypeVar("_R")


class HostM1:
    """An `m1_engine.Engine`.

    Attributes:
        model: the weights, packed for this processor.
    """

    def __init__(self, params: exact.ExactParams, config: exact.ExactConfig) -> None:
        self.config, self.model = config, HostModel(params, config)

    def frequencies(self, texts: np.ndarray) -> np.ndarray:
        rows: np.ndarray = read_only(np.asarray(texts, np.uint8).tobytes()).reshape(texts.shape)
        out = np.empty((len(rows), END), np.int32)
        size = max(1, TASK_BYTES // (rows.shape[1] + 1))

        def compute(start: int) -> None:
            with self.model.state(self.config.context) as state:
                part = slice(start, start + size)
                host_coder.frequencies(self.model.address, state, rows[part], out[part])

        collections.deque(_in_threads(compute, range(0, len(rows), size)), maxlen=0)
        return out.view(np.uint32)

    def first_table(self) -> np.ndarray:
        freqs = np.empty(exact.N_SYMBOLS, np.int32)
        host_coder.table(self.model.first, exact.N_SYMBOLS, freqs)
        return tables.cumulative(freqs.astype(np.uint32))

    def entries(self, segments: Iterable[bytes], *, cached: bool = False) -> Iterator[tuple[bytes, np.ndarray]]:
        context = self.config.context
        together = max(1, TASK_BYTES // context)
        waiting: collections.deque[tuple[bytes, np.ndarray]] = collections.deque()
        finished: collections.deque[int] = collections.deque()

        def tasks() -> Iterator[list[_Part]]:
            """Yields parts of segments with as many contexts together; notes how many segments each task finishes."""
            task: list[_Part] = []
            n_contexts = n_segments = 0
            for segment in segments:
                text, out, first = read_only(segment), np.empty((len(segment) + 1, 2), np.uint32), 0
                waiting.append((segment, out))
                while first * context < len(out):
                    last = min(first + together - n_contexts, -(-len(out) // context))
                    task.append((text, out, first, last))
                    n_contexts, n_segments = n_contexts + last - first, n_segments + (last * context >= len(out))
                    if n_contexts == together:
                        finished.append(n_segments)
                        yield task
                        task, n_contexts, n_segments = [], 0, 0
                    first = last
            if task:
                finished.append(n_segments)
                yield task

        def compute(task: list[_Part]) -> None:
            freqs = np.empty(exact.N_SYMBOLS, np.int32)
            with self.model.state(context) as state:
                for text, out, first, last in task:
                    if cached:
                        self._cached_entries(state, text, out, first, last)
                    else:
                        host_coder.entries(self.model.address, state, text, first, last, context, freqs, out)

        for _ in _in_threads(compute, tasks()):
            yield from (waiting.popleft() for _ in range(finished.popleft()))

    def _cached_entries(self, state: State, text: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
        """Writes entries of contexts first .. last - 1 of a text and its end."""
        context = self.config.context
        begin, end = first * context, min(last * context, len(out))
        symbols = np.append(text, np.int16(END))[begin:end]
        part, freqs = out[begin:end], np.empty(exact.N_SYMBOLS, np.int32)
        bounds = np.append(np.arange(0, end - begin, context), end - begin)
        for i in range(0, len(bounds) - 1, len(state.keys)):
            begins, ends = bounds[:-1][i : i + len(state.keys)], bounds[1:][i : i + len(state.keys)]
            host_coder.cached_entries(self.model.address, state, symbols, begins, ends, freqs, part)

    def decode(self, streams: Sequence[bytes], *, overrun: int, limit: int) -> list[Decoded]:
        def compute(share: list[bytes]) -> list[Decoded]:
            data, begins, ends = _joined(share)
            symbols, lengths = np.empty((len(share), limit), np.uint8), np.zeros(len(share), np.int64)
            final, freqs = np.zeros((len(share), 3), np.int64), np.empty(exact.N_SYMBOLS, np.int32)
            context = self.config.context
            with self.model.state(context) as state:
                host_coder.decode(
                    *(self.model.address, state, data, begins, ends, overrun),
                    *(context, freqs, symbols, lengths, final),
                )
            found = zip(symbols, lengths, final, strict=True)
            return [Decoded(row[:n].copy(), tuple(last.tolist()) if last[1] else None) for row, n, last in found]

        return list(_dealt(compute, streams, most_items=STREAMS, most_bytes=1 << 30))

    def encode_windows(self, segments: Iterable[bytes], rules: WindowRules) -> Iterator[np.ndarray]:
        flags, shared = _compiled_rules(rules)

        def compute(share: list[bytes]) -> list[np.ndarray]:
            text, begins, ends = _joined(share)
            full = np.flatnonzero(ends > begins)
            codes, counts = np.empty((len(text), rules.n_limbs), np.uint16), np.zeros(len(share), np.int64)
            found = np.zeros(len(full), np.int64)
            with self.model.state(rules.context) as state:
                host_windows.encode(
                    *(self.model.address, state, text, begins[full], ends[full], flags, shared),
                    *(rules.open_bytes, codes, found),
                )
            counts[full] = found
            return [codes[begin : begin + n].astype(np.uint32) for begin, n in zip(begins, counts, strict=True)]

        slots = self.model.n_slots(rules.context) * n_threads()
        return _dealt(compute, segments, most_items=1 << 16, most_bytes=SLOT_BYTES * slots)

    def decode_windows(self, codes: Sequence[np.ndarray], rules: WindowRules) -> list[bytes]:
        joined = np.concatenate([np.zeros((0, rules.n_limbs), np.uint32), *codes])
        ends = np.cumsum([len(c) for c in codes], dtype=np.int64)
        begins = np.append(0, ends)[:-1]
        # Jobs: M1 is reset at the beginning of each.
        if rules.m1_reset:
            n_jobs = -(-(ends - begins) // rules.m1_reset)
            first = np.repeat(begins - rules.m1_reset * (np.cumsum(n_jobs) - n_jobs), n_jobs)
            job_begins = first + rules.m1_reset * np.arange(n_jobs.sum())
            job_ends = np.minimum(job_begins + rules.m1_reset, np.repeat(ends, n_jobs))
        else:
            n_jobs = np.ones(len(codes), np.int64)
            job_begins, job_ends = begins, ends
        lengths, texts = self._decoded_jobs(joined, job_begins, job_ends, rules)
        bounds = np.append(0, np.cumsum(lengths))[np.append(0, np.cumsum(n_jobs))].tolist()
        return [texts[begin:end].tobytes() for begin, end in itertools.pairwise(bounds)]

    def _decoded_jobs(
        self, codes: np.ndarray, begins: np.ndarray, ends: np.ndarray, rules: WindowRules
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lengths of the texts of jobs, int64[N], and the texts one after another, uint8[T]."""
        flags, shared = _compiled_rules(rules)
        lengths, parts = np.zeros(len(begins), np.int64), []
        full = np.flatnonzero(ends > begins)
        space = max(1, SPACE * rules.bits)  # bytes for each window
        while len(full):

            def compute(jobs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
                text_begins = np.append(0, np.cumsum((ends[jobs] - begins[jobs]) * space))  # noqa: B023
                text, found = np.empty(text_begins[-1], np.uint8), np.zeros(len(jobs), np.int64)
                with self.model.state(rules.context) as state:
                    host_windows.decode(
                        *(self.model.address, state, codes, begins[jobs], ends[jobs], flags, shared),
                        *(text, text_begins, found),
                    )
                return jobs, found, text, text_begins

            order = full[np.argsort(begins[full] - ends[full], kind="stable")]
            n_tasks = max(-(-len(order) // JOBS), min(n_threads(), len(order)))
            results = list(_in_threads(compute, (order[i::n_tasks] for i in range(n_tasks))))
            for jobs, found, text, text_begins in results:
                good = found >= 0
                lengths[jobs[good]] = found[good]
                parts.append((jobs[good], text, text_begins[:-1][good]))
            full = np.concatenate([jobs[found < 0] for jobs, found, *_ in results])
            space *= 8
        out_begins = np.cumsum(lengths) - lengths
        out = np.empty(lengths.sum(), np.uint8)
        for jobs, text, text_begins in parts:
            host_windows.copy(text, text_begins, lengths[jobs], out, out_begins[jobs])
        return lengths, out


@functools.cache
def _compiled_rules(rules: WindowRules) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rules as `host_windows` takes them: int64[6] and int64[K]."""
    node = rules.fill == "node"
    flags = (node, rules.fill == "delay", rules.fill == "paper", rules.align == "word", rules.m1_reset, rules.context)
    return np.array(flags, np.int64), window_loops.shared_limbs(rules.bits, node)


def _joined(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns texts one after another, uint8[T], and their bounds, int64[N] each."""
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return read_only(b"".join(texts)), np.append(0, ends)[:-1], ends


def _dealt(
    compute: Callable[[list[bytes]], list[_R]], items: Iterable[bytes], *, most_items: int, most_bytes: int
) -> Iterator[_R]:
    """Yields the result of each item, in order.

    Items are read in groups. Those of a group are dealt to the threads, the longest first, so that threads and slots
    end at about the same time.
    """
    waiting: collections.deque[tuple[int, list[list[int]]]] = collections.deque()

    def shares() -> Iterator[list[bytes]]:
        source = iter(items)
        while group := _group(source, most_items, most_bytes):
            order = sorted(range(len(group)), key=lambda i: -len(group[i]))
            dealt = [order[i :: n_threads()] for i in range(min(n_threads(), len(group)))]
            waiting.append((len(group), dealt))
            yield from ([group[i] for i in share] for share in dealt)

    done = _in_threads(compute, shares())
    for first in done:
        n, dealt = waiting.popleft()
        results: dict[int, _R] = {}
        for share, part in zip(dealt, [first, *itertools.islice(done, len(dealt) - 1)], strict=True):
            results.update(zip(share, part, strict=True))
        yield from (results[i] for i in range(n))


def _group(source: Iterator[bytes], most_items: int, most_bytes: int) -> list[bytes]:
    group, n_bytes = [], 0
    for item in source:
        group.append(item)
        n_bytes += len(item)
        if n_bytes >= most_bytes or len(group) >= most_items:
            break
    return group


def _in_threads(compute: Callable[[_T], _R], tasks: Iterable[_T]) -> Iterator[_R]:
    """Yields the result of each task, in order; a few tasks are read ahead. One task alone needs no other thread."""
    source, n = iter(tasks), n_threads()
    first = list(itertools.islice(source, 2 if n > 1 else 0))
    if len(first) < 2:
        yield from map(compute, itertools.chain(first, source))
        return
    running: collections.deque[Future] = collections.deque()
    pool = ThreadPoolExecutor(n)
    try:
        for task in itertools.chain(first, source):
            running.append(pool.submit(compute, task))
            while running and (len(running) > READ_AHEAD * n or running[0].done()):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
