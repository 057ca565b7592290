"""Equal-Info Windows with the host's M1: encoder and decoder as compiled loops over the slots of a state.

A slot has a job, a segment of text or a sequence of codes, and takes the next one when it is done. M1 runs once for
each byte: a window that closes leaves M1's last table to the next one, or M1 is reset, and the table at the start of a
context is known. The steps are those of `device_windows`, and so are the codes.
"""

import numpy as np

from compressed_lm.codecs.host_coder import table
from compressed_lm.coding import window_loops as loops
from compressed_lm.coding.compiled import njit, part
from compressed_lm.coding.windows import WHITE_SPACE
from compressed_lm.exact.vectors import call

JOB, PLACE, CONTEXT, CLOSED, DEPTH, MATCH, LAST, COUNT, ROW = range(9)
"""Fields of a slot: its job, the next byte or code, bytes that M1 has seen, windows in its context, bytes of the open
window (0: none), depth at which the code was last found, M1's last input, results so far, row of its logits."""

NODE, DELAY, PAPER, WORD, RESET, LENGTH = range(6)
"""Fields of the rules int64[6]: flags, windows after which M1 is reset (0: after `LENGTH` bytes), M1's context."""


@part
def _cumulative(s, slot, rules, freqs, cdf):
    """Writes the cumulative table of the next byte, int64[257]; returns the sum."""
    position, depth = slot[CONTEXT], slot[DEPTH]
    if position >= rules[LENGTH]:
        for i in range(256):
            freqs[i] = 256
    elif position == 0:
        table(s.first, 256, freqs)
    else:
        table(s.logits[slot[ROW]], 256, freqs)
    every = not rules[WORD] or depth == 0 or WHITE_SPACE[slot[LAST]]  # any byte may be the first one of a window
    total = np.int64(0)
    for i in range(256):
        cdf[i] = total
        if every or not WHITE_SPACE[i]:
            total += np.int64(freqs[i])
    cdf[256] = total
    return total


@part
def _run_m1(address, s, slots, rules):
    """Runs M1 for the slots whose next table needs it; returns whether any slot has a job."""
    n, busy = 0, False
    for i in range(len(slots)):
        slot = slots[i]
        busy |= slot[JOB] >= 0
        if slot[JOB] >= 0 and 0 < slot[CONTEXT] < rules[LENGTH]:
            s.inputs[n], s.slots[n], s.positions[n], slot[ROW] = slot[LAST], i, slot[CONTEXT], n
            n += 1
    if n:
        call(address, s, n)
    return busy


@part
def _extended(node, slot, cdf, symbol, total, shared, interval, new, buffer):
    """Writes the interval of the open window extended by a byte, or of the window that it begins, to `new`."""
    if slot[DEPTH]:
        loops.extended(node, cdf[symbol], cdf[symbol + 1], total, interval[0], interval[1], new[0], new[1], buffer)
    else:
        loops.first(node, symbol, cdf[symbol], cdf[symbol + 1], shared, new[0], new[1])


@part
def _close(slot, rules):
    """Closes the open window, and resets M1 if it is time."""
    slot[DEPTH], slot[CLOSED] = 0, slot[CLOSED] + 1
    if rules[RESET] and slot[CLOSED] == rules[RESET]:
        slot[CONTEXT] = slot[CLOSED] = 0


@part
def _take(slot, rules, symbol):
    slot[DEPTH], slot[CONTEXT], slot[LAST] = slot[DEPTH] + 1, slot[CONTEXT] + 1, symbol
    if not rules[RESET] and slot[CONTEXT] == rules[LENGTH]:
        slot[CONTEXT] = 0


@part
def _next_job(slots, i, n_jobs, taken):
    """Gives the next job to an idle slot; returns the number of jobs that were taken."""
    if slots[i, JOB] < 0 and taken < n_jobs:
        for field in range(slots.shape[1]):
            slots[i, field] = 0
        slots[i, JOB] = taken
        return taken + 1
    return taken


@part
def _work_space(n_slots, k):
    """Returns idle slots, the intervals of their windows, and buffers: an interval, a table, its sums, a number."""
    return (
        np.full((n_slots, 9), -1, np.int64),
        np.zeros((n_slots, 2, k), np.int64),
        np.zeros((2, k), np.int64),
        np.zeros(257, np.int32),
        np.zeros(257, np.int64),
        np.zeros(k, np.int64),
    )


@njit(nogil=True, error_model="numpy")
def encode(address, s, text, begins, ends, rules, shared, open_bytes, codes, counts):
    """Writes the window codes of segments.

    Args:
        address: of `kernels.forward`.
        s: `kernels.State` in which position 0 of each slot is computed.
        text: uint8[T], segments one after another, none empty.
        begins, ends: int64[N], bounds of the segments.
        rules: int64[6], see `NODE`.
        shared: int64[K'], `window_loops.shared_limbs`.
        open_bytes: length of the history of codes that the fill "delay" needs.
        codes: uint16[T, K], written: the codes of a segment begin at its first byte.
        counts: int64[N], written: windows of each segment.
    """
    n_slots, k, node = len(s.keys), codes.shape[1], rules[NODE] != 0
    slots, intervals, new, freqs, cdf, buffer = _work_space(n_slots, len(shared))
    taken = 0
    history = np.zeros((n_slots, open_bytes + 1, k), np.int64)  # codes by depth, or the last one
    while True:
        for i in range(n_slots):
            taken = _next_job(slots, i, len(begins), taken)
        if not _run_m1(address, s, slots, rules):
            return
        for i in range(n_slots):
            slot = slots[i]
            while slot[JOB] >= 0:  # up to the next byte that is taken: closing windows needs no step of M1
                job = slot[JOB]
                place = begins[job] + slot[PLACE]
                inside = place < ends[job]
                if inside:
                    total = _cumulative(s, slot, rules, freqs, cdf)
                    symbol = np.int64(text[place])
                    _extended(node, slot, cdf, symbol, total, shared, intervals[i], new, buffer)
                    if slot[DEPTH] == 0 or loops.exists(node, new[0], new[1]):
                        loops.copy(new[0], intervals[i, 0])
                        loops.copy(new[1], intervals[i, 1])
                        at = slot[DEPTH] if rules[DELAY] else 0
                        loops.code(node, new[0], new[1], history[i, at])
                        slot[PLACE] += 1
                        _take(slot, rules, symbol)
                        break
                last = slot[DEPTH] - 1 if rules[DELAY] else 0
                for j in range(k):
                    codes[begins[job] + slot[COUNT], j] = history[i, last, j]
                slot[COUNT] += 1
                given_back = 0
                if rules[DELAY]:  # the window ends where its code first appeared
                    earliest = 0
                    while not loops.equal(history[i, earliest], history[i, last]):
                        earliest += 1
                    given_back = last - earliest
                slot[PLACE] -= given_back
                _close(slot, rules)
                if not inside and given_back == 0:
                    counts[job], slot[JOB] = slot[COUNT], -1
                    taken = _next_job(slots, i, len(begins), taken)


@njit(nogil=True, error_model="numpy")
def decode(address, s, codes, begins, ends, rules, shared, text, text_begins, lengths):
    """Writes the texts of sequences of codes; M1 is reset at the beginning of each.

    Args:
        address, s, rules, shared: as in `encode`.
        codes: uint32[C, K], sequences one after another, none empty.
        begins, ends: int64[N], bounds of the sequences.
        text: uint8[T], written: the text of sequence i begins at text_begins[i].
        text_begins: int64[N + 1].
        lengths: int64[N], written: bytes of each text; -1 if there is not enough space for it.
    """
    n_slots, k, node = len(s.keys), codes.shape[1], rules[NODE] != 0
    slots, intervals, new, freqs, cdf, buffer = _work_space(n_slots, len(shared))
    taken = 0
    wanted, code = np.zeros(k, np.int64), np.zeros(k, np.int64)
    while True:
        for i in range(n_slots):
            taken = _next_job(slots, i, len(begins), taken)
        if not _run_m1(address, s, slots, rules):
            return
        for i in range(n_slots):
            slot = slots[i]
            while slot[JOB] >= 0:
                job = slot[JOB]
                place, written = begins[job] + slot[PLACE], text_begins[job] + slot[COUNT]
                if place == ends[job] or written == text_begins[job + 1]:
                    # Under "paper" a sequence is one window, which ends at its last match.
                    length = slot[MATCH] if rules[PAPER] else slot[COUNT]
                    lengths[job], slot[JOB] = length if place == ends[job] else -1, -1
                    taken = _next_job(slots, i, len(begins), taken)
                    continue
                total = _cumulative(s, slot, rules, freqs, cdf)
                for j in range(k):
                    wanted[j] = codes[place, j]
                at_root = slot[DEPTH] == 0
                symbol = loops.find(node, cdf, total, at_root, intervals[i, 0], intervals[i, 1], wanted, shared)
                _extended(node, slot, cdf, symbol, total, shared, intervals[i], new, buffer)
                take, found = at_root or loops.exists(node, new[0], new[1]), False
                if take:
                    loops.copy(new[0], intervals[i, 0])
                    loops.copy(new[1], intervals[i, 1])
                    loops.code(node, new[0], new[1], code)
                    found = loops.equal(code, wanted)
                    if at_root or found:
                        slot[MATCH] = slot[DEPTH] + 1 if found else 0
                    text[written] = symbol
                    slot[COUNT] += 1
                    _take(slot, rules, symbol)
                if not take or (found and not rules[PAPER]):
                    if slot[MATCH] == 0:  # a code without a text decodes to the longest text on the path to it
                        slot[MATCH] = slot[DEPTH]
                    slot[PLACE] += 1
                    _close(slot, rules)
                if take:
                    break


@njit(nogil=True)
def copy(source, begins, lengths, target, target_begins):
    """Copies pieces of uint8[T] to other places."""
    for i in range(len(begins)):
        begin, to = begins[i], target_begins[i]
        for j in range(lengths[i]):
            target[to + j] = source[begin + j]
