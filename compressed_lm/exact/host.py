"""The exact model on the CPU: weights packed for `kernels.forward`, and states for threads."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from compressed_lm.coding.tables import END
from compressed_lm.exact import kernels
from compressed_lm.exact.config import N_SYMBOLS, ExactConfig, ExactParams
from compressed_lm.exact.kernels import SHIFTS, State
from compressed_lm.exact.products import BLOCK, GROUP
from compressed_lm.exact.vectors import address_of

ROWS = 16
"""Slots of a state: more rows use the weights in the fastest cache more often, but their keys and values need space."""

BLOCK_ROWS = 32
"""Positions of a context that are computed together if its text is known, and the most inputs of a state."""

CACHE_BYTES = 64 << 20
"""Most bytes of a state's keys and values; models with larger ones get fewer slots."""

_LINE = 64  # bytes; a cache line of most processors, and a vector of 16 int32


class HostModel:
    """An exact model for this machine's processor. Threads may use it together, each with its own state.

    Attributes:
        config: shape of the model.
        first: int32[257], logits at the start of a context.
    """

    def __init__(self, params: ExactParams, config: ExactConfig) -> None:
        self.config, self._weights = config, _packed(params, config)
        self._free: dict[int, list[State]] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def address(self) -> int:
        """Address of `kernels.forward` for `vectors.call`."""
        return address_of(kernels.forward, self._new_state(1, 1))

    @functools.cached_property
    def first(self) -> np.ndarray:
        with self.state(1) as state:
            return state.first.copy()

    @contextlib.contextmanager
    def state(self, length: int) -> Iterator[State]:
        """Lends a state with at least one slot of `length` positions; position 0 of each slot is computed."""
        with self._lock:
            free = self._free.setdefault(length, [])
            state = free.pop() if free else None
        if state is None:
            state = self._new_state(self.n_slots(length), length)
            self._start(state)
        yield state  # not given back after an error, which may have left it unfinished
        with self._lock:
            self._free[length].append(state)

    def forward(self, state: State, n: int) -> None:
        """Calls `kernels.forward`."""
        assert self.address  # compiled
        kernels.forward(state, n)

    def _start(self, state: State) -> None:
        for slot in range(len(state.keys)):
            state.inputs[0], state.slots[0], state.positions[0] = END, slot, 0
            self.forward(state, 1)
        state.first[:] = state.logits[0]

    def n_slots(self, length: int) -> int:
        """Returns the number of slots of a state for contexts of `length` positions."""
        one = sum(4 * int(np.prod(shape[1:])) for shape in self._cache_shapes(1, length))
        return max(1, min(ROWS, CACHE_BYTES // one))

    def _cache_shapes(self, slots: int, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        c, groups = self.config, -(-self.config.d_head // GROUP)
        # One more block or group than needed: lines of different slots and layers would else share few cache sets.
        return (
            (slots, c.n_layers, -(-length // BLOCK) + 1, c.n_heads, groups, BLOCK),
            (slots, c.n_layers, c.n_heads, -(-groups * GROUP // BLOCK), -(-length // GROUP) + 1, BLOCK),
        )

    def _new_state(self, slots: int, length: int) -> State:
        c, rows = self.config, max(BLOCK_ROWS, slots)
        d_head, width = _up(c.d_head, GROUP), _up(length, BLOCK)
        inner, pairs = c.n_heads * d_head, rows * c.n_heads
        keys, values = (_aligned(shape) for shape in self._cache_shapes(slots, length))
        int32 = functools.partial(np.zeros, dtype=np.int32)
        widest = _up(max(c.d_model, inner, c.d_ff), GROUP)
        return State(
            **self._weights,
            keys=keys,
            values=values,
            first=int32(N_SYMBOLS),
            inputs=int32(rows),
            slots=int32(rows),
            positions=int32(rows),
            logits=int32((rows, N_SYMBOLS)),
            h=int32((rows, c.d_model)),
            x=np.zeros((rows, widest + BLOCK), np.int8),  # whole blocks are read at its end
            sums=int32((rows, _up(max(3 * inner, c.d_model, 2 * c.d_ff, N_SYMBOLS), BLOCK))),
            start=int32(rows),
            q=np.zeros((rows, inner), np.int8),
            q_start=int32((c.n_heads, rows)),
            scores=int32((pairs, width)),
            halves=np.zeros((2 * pairs, width), np.uint8),
            weight=int32(pairs),
            totals=int32((2 * pairs, _up(d_head, BLOCK))),
            zeros=int32(2 * pairs),
        )


def n_threads() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns zeros int32[shape] that begin at a cache line."""
    size = int(np.prod(shape))
    memory = np.zeros(size + _LINE // 4, np.int32)
    skipped = -memory.ctypes.data % _LINE // 4
    return memory[skipped : skipped + size].reshape(shape)


def _blocks(w: np.ndarray) -> np.ndarray:
    """Returns int8[inputs, outputs] as uint8[blocks, groups, 16, 4], see `products`; 128 is added."""
    inputs, outputs = (_up(n, multiple) for n, multiple in zip(w.shape, (GROUP, BLOCK), strict=True))
    padded = np.full((inputs, outputs), 128, np.uint8)
    padded[: w.shape[0], : w.shape[1]] = w.view(np.uint8) ^ 128
    return padded.reshape(inputs // GROUP, GROUP, outputs // BLOCK, BLOCK).transpose(2, 0, 3, 1)


def _packed(params: ExactParams, config: ExactConfig) -> dict[str, Any]:
    """Returns the fields of `State` that are weights. Heads are padded to a multiple of four channels."""
    layers = [params[f"layer_{i}"] for i in range(config.n_layers)]
    final = params["final"]

    def padded(array: np.ndarray) -> np.ndarray:
        heads = array.reshape(*array.shape[:-1], config.n_heads, config.d_head)
        widths = [(0, 0)] * array.ndim + [(0, -config.d_head % GROUP)]
        return np.pad(heads, widths).reshape(*array.shape[:-1], -1)

    def stacked(arrays: Any) -> np.ndarray:
        arrays = np.stack(list(arrays))
        return np.ascontiguousarray(arrays, np.uint8 if arrays.dtype == np.uint8 else np.int32)

    def joined(p: dict[str, np.ndarray], suffix: str = "") -> np.ndarray:
        return np.concatenate([padded(p[name + suffix]) for name in "qkv"], axis=-1)

    def pair(p: dict[str, np.ndarray], suffix: str = "") -> np.ndarray:
        return np.concatenate([p["up" + suffix], p["gate" + suffix]], axis=-1)

    beyond = (0, BLOCK)  # positions after the last one: `device.FORBIDDEN`
    return dict(
        embed=stacked(params["embed"]["table"]),
        norms=stacked([p[name] for p in layers for name in ("attention_in", "mlp_in")] + [final["in"]]),
        qkv=stacked(_blocks(joined(p)) for p in layers),
        qkv_multiplier=stacked(joined(p, "_multiplier") for p in layers),
        score_multiplier=stacked(p["score_multiplier"] for p in layers),
        bias=stacked(np.pad(p["bias"][:, ::-1], ((0, 0), beyond), constant_values=-(1 << 30)) for p in layers),
        average_multiplier=stacked(padded(p["average_multiplier"]) for p in layers),
        out=stacked(_blocks(padded(p["out"].T).T) for p in layers),
        out_multiplier=stacked(p["out_multiplier"] for p in layers),
        gated=stacked(_blocks(pair(p)) for p in layers),
        gated_multiplier=stacked(pair(p, "_multiplier") for p in layers),
        product_multiplier=stacked(p["product_multiplier"] for p in layers),
        down=stacked(_blocks(p["down"]) for p in layers),
        down_multiplier=stacked(p["down_multiplier"] for p in layers),
        unembed=np.ascontiguousarray(_blocks(final["unembed"])),
        logit_multiplier=np.array(final["logit_multiplier"], np.int32),
        shifts=stacked(
            [[int(p[f"{name}_shift"]) for name in SHIFTS] for p in layers] + [[int(final["logit_shift"])] * len(SHIFTS)]
        ),
    )
