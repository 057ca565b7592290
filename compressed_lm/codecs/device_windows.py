"""Equal-Info Windows on the device, for windows without a dictionary: batch slots with M1's key/value cache.

Each step of a slot feeds M1 one byte, then adds the next byte to the open window or closes the window. Encoding
(`window_encoder` calls it) and decoding take the same steps; the next byte comes from the text or from the code. If M1
is reset at every window, windows decode in parallel.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm import exact
from compressed_lm.codecs.local_devices import LocalMap, block_rows, map_over_local_devices
from compressed_lm.codecs.window_rules import WindowRules
from compressed_lm.coding import limbs, tables, windows
from compressed_lm.coding.tables import END
from compressed_lm.exact import device

if TYPE_CHECKING:  # it calls this module
    from compressed_lm.codecs.device_m1 import DeviceM1

TURNS = 256
"""Most steps of a slot per call of the compiled program."""

MARK = 256
"""End of a segment in a slot's text."""

CLOSED, LAST = 1, 2
"""Steps of an encoder that closed a window, and those that closed the last window of a segment."""


def decode(m1: "DeviceM1", codes: Sequence[np.ndarray], rules: WindowRules) -> list[bytes]:
    """Returns the text of each sequence of window codes uint32[N, K]; undoes `encode`, except for the fill "paper"."""
    if not rules.m1_reset:
        return _decode_slots(m1, codes, rules)
    groups = [c[i : i + rules.m1_reset] for c in codes for i in range(0, len(c), rules.m1_reset)]
    texts = iter(_decode_slots(m1, groups, rules))
    return [b"".join([next(texts) for _ in range(0, len(c), rules.m1_reset)]) for c in codes]


def _decode_slots(m1: "DeviceM1", codes: Sequence[np.ndarray], rules: WindowRules) -> list[bytes]:
    """Returns the text of each sequence of codes; M1 is reset at the beginning of each."""
    program = _program(_decode_turns, m1.config, rules)
    pieces = [[np.zeros(0, np.uint8)] for _ in codes]
    for running in _blocks([len(c) for c in codes]):
        state, read = initial_state(m1.config, len(running), rules), np.zeros(len(running), np.int64)
        width = min(len(codes[running[0]]), TURNS)
        while len(running):
            chunk = np.zeros((len(running), width, rules.n_limbs), np.uint32)
            left = np.array([len(codes[i]) for i in running]) - read
            for row, i, start in zip(chunk, running, read, strict=True):
                piece = codes[i][start : start + width]
                row[: len(piece)] = piece
            state["place"] = np.zeros(len(running), np.int32)
            state, taken, symbols = program(m1.device_params, (state, chunk, np.minimum(left, width).astype(np.int32)))
            going = state["place"] < left
            for slot, i in enumerate(running):
                pieces[i].append(symbols[slot, taken[slot]])
                # Such a slot is one window, which ends at its last match.
                if rules.fill == "paper" and not going[slot]:
                    pieces[i] = [np.concatenate(pieces[i])[: state["match"][slot]]]
            running, read, state = running[going], (read + state["place"])[going], _chosen(state, going)
    return [np.concatenate(p).tobytes() for p in pieces]


def _blocks(lengths: Sequence[int]) -> list[np.ndarray]:
    """Returns groups of indices of non-empty items; a group fills the slots of all devices.

    The longest come first, so that the slots of a group end at about the same time.
    """
    order = np.array(sorted((i for i, n in enumerate(lengths) if n), key=lambda i: -lengths[i]), np.int64)
    width = block_rows()
    return [order[i : i + width] for i in range(0, len(order), width)]


def _chosen(state: dict, slots: np.ndarray) -> dict:
    return jax.tree.map(lambda leaf: leaf[slots], state)


@functools.lru_cache(maxsize=32)
def _program(fn: Callable, config: exact.ExactConfig, rules: WindowRules) -> LocalMap:
    return map_over_local_devices(fn, sequential=True, config=config, rules=rules)


def initial_state(config: exact.ExactConfig, n_slots: int, rules: WindowRules) -> dict:
    """Returns the initial state of slots.

    `context` is the number of bytes that M1 has seen, `closed` the number of windows in its context, `depth` the number
    of bytes of the open window (0: none is open). `lo` and `size` are its interval, `code` its code. `match` is the
    depth at which a decoder last found the code that it searches for. `last` is M1's last input.
    """
    zeros = functools.partial(np.zeros, n_slots)
    interval = jax.eval_shape(lambda s: rules.rule.root(s, s, s, xp=jnp), jax.ShapeDtypeStruct((n_slots,), jnp.uint32))
    lo, size = jax.tree.map(lambda leaf: zeros(leaf.dtype), interval)
    counts = {name: zeros(np.int32) for name in ("context", "closed", "depth", "match", "last")}
    code = (zeros(np.uint32),) * rules.n_limbs
    cache = jax.tree.map(np.asarray, device.init_cache(config, n_slots, rules.context))
    state = counts | {"lo": lo, "size": size, "code": code, "cache": cache}
    if rules.fill == "delay":
        state["codes"] = np.zeros((n_slots, rules.open_bytes, rules.n_limbs), np.uint32)
    return state


def _table(
    config: exact.ExactConfig, params: exact.ExactParams, state: dict, rules: WindowRules
) -> tuple[jax.Array, jax.Array | None, Any]:
    """Runs M1; returns cumulative frequencies uint32[B, 257] of the next byte, their sum (None: 2**16), the cache."""
    context, last = state["context"], state["last"]
    position = jnp.minimum(context, rules.context - 1)
    logits, cache = device.step(params, config, jnp.where(context == 0, END, last), position, state["cache"])
    freqs = tables.frequencies(device.weights_of(logits[:, :256]), xp=jnp)
    freqs = jnp.where((context < rules.context)[:, None], freqs, jnp.uint32(256))
    if rules.align == "none":
        return tables.cumulative(freqs, xp=jnp), None, cache
    # Any byte may be the first one of a window.
    allowed = windows.allowed_continuations(last, xp=jnp) | (state["depth"] == 0)[:, None]
    cdf = tables.cumulative(jnp.where(allowed, freqs, jnp.uint32(0)), xp=jnp)
    return cdf, cdf[:, -1], cache


def _take(
    state: dict, symbol: jax.Array, cdf: jax.Array, total: jax.Array | None, rules: WindowRules
) -> tuple[limbs.Limbs, limbs.Limbs, limbs.Limbs, jax.Array]:
    """Returns (lo, size, code, exists) of the open window extended by a byte, or of the new window that it starts."""
    rule, slots = rules.rule, jnp.arange(symbol.shape[0])
    below, above = cdf[slots, symbol], cdf[slots, symbol + 1]
    root = rule.root(symbol.astype(jnp.uint32), below, above, xp=jnp)
    node = rule.child(state["lo"], state["size"], below, above, total)
    at_root = state["depth"] == 0
    # The barrier keeps the compiler from duplicating a long expression at each of its uses.
    lo, size = jax.lax.optimization_barrier(
        tuple(limbs.select(at_root, r, n, xp=jnp) for r, n in zip(root, node, strict=True))
    )
    return lo, size, rule.code(lo, size, xp=jnp), at_root | rule.exists(lo, size)


def _find(rule: windows.Rule, state: dict, cdf: jax.Array, total: jax.Array | None, code: limbs.Limbs) -> jax.Array:
    """Returns the byte int32[B] whose interval contains a code of limbs uint32[B], by bisection."""
    slots, at_root = jnp.arange(cdf.shape[0]), state["depth"] == 0
    target = rule.target(code, xp=jnp)
    offset = limbs.subtract(target, rule.origin(state["lo"], xp=jnp))

    def halve(i: jax.Array, symbol: jax.Array) -> jax.Array:
        trial = symbol + (128 >> i)
        below = cdf[slots, trial]
        root = limbs.less_equal(rule.root_start(trial.astype(jnp.uint32), below, xp=jnp), target)
        node = limbs.less_equal(rule.child_start(state["size"], below, total), offset)
        return jnp.where(jnp.where(at_root, root, node), trial, symbol)

    return jax.lax.fori_loop(0, 8, halve, jnp.zeros(cdf.shape[0], jnp.int32))


def _reset(state: dict, close: jax.Array, rules: WindowRules) -> dict:
    """Returns `context` and `closed` after the slots in `close` have closed their window."""
    if rules.m1_reset == 0:
        context = jnp.where(state["context"] == rules.context, 0, state["context"])
        return {"context": context, "closed": state["closed"]}
    closed = state["closed"] + close
    again = closed == rules.m1_reset
    return {"context": jnp.where(again, 0, state["context"]), "closed": jnp.where(again, 0, closed)}


def _update(condition: jax.Array, new: dict, old: dict) -> dict:
    def choose(a: Any, b: Any) -> jax.Array:
        return jnp.where(condition.reshape(-1, *[1] * (jnp.ndim(b) - 1)), a, b)

    return old | {name: jax.tree.map(choose, value, old[name]) for name, value in new.items()}


def encode_turns(
    params: exact.ExactParams,
    rows: tuple[dict, jax.Array, jax.Array],
    *,
    config: exact.ExactConfig,
    rules: WindowRules,
) -> tuple[dict, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Runs up to `TURNS` steps of each slot.

    Args:
        params: M1's weights.
        rows: (state, text, moved). text: int16[B, L], part of a stream of segments, with `MARK` after each and -1 after
            the last; `state["place"]` is the index of the next byte in the text of the last call, of which this text
            begins with column moved, int32[B].
        config: M1's shape.
        rules: parameters of the codec.

    Returns:
        state; the place int32[B]; the number of steps, the same for all slots, int32[B]; of these, the steps in which
        the slot had text, int32[B]; whether the step closed a window (`CLOSED`, `LAST`, otherwise 0), uint8[B, TURNS];
        the code of the window, uint32[B, TURNS, K].
    """
    state, text, moved = rows
    state = state | {"place": state["place"] - moved}
    n_slots = len(text)
    slots = jnp.arange(n_slots)

    def turn(carry: tuple) -> tuple:
        i, state, busy, closed, codes = carry
        state = state | {"last": jnp.maximum(text[slots, state["place"] - 1], 0).astype(jnp.int32)}
        cdf, total, cache = _table(config, params, state, rules)
        byte = text[slots, state["place"]].astype(jnp.int32)
        inside = (byte >= 0) & (byte < MARK)
        lo, size, code, exists = _take(state, jnp.where(inside, byte, 0), cdf, total, rules)
        take = inside & exists
        close = (state["depth"] > 0) & ~take
        open_code = jnp.stack(state["code"], -1)
        taken = dict(lo=lo, size=size, code=code, depth=state["depth"] + 1, context=state["context"] + 1)
        given_back = jnp.zeros_like(byte)
        if rules.fill == "delay":  # a window ends where its code first appeared; a code may appear several times
            earlier, depths = state["codes"], jnp.arange(state["codes"].shape[1])
            same = jnp.all(earlier == open_code[:, None], -1) & (depths < state["depth"][:, None])
            given_back = state["depth"] - 1 - jnp.argmax(same, -1).astype(jnp.int32)
            taken["codes"] = earlier.at[slots, state["depth"]].set(jnp.stack(code, -1))
        last = close & (byte == MARK) & (given_back == 0)
        new = _update(take, taken | {"place": state["place"] + 1}, state)
        new = _update(close, {"depth": 0, "place": state["place"] - given_back + last}, new)
        new |= _reset(new, close, rules)
        new = _update(last, {"context": 0, "closed": 0}, new) | {"cache": cache}
        kind = jnp.where(last, LAST, jnp.where(close, CLOSED, 0)).astype(jnp.uint8)
        return i + 1, new, busy + (byte >= 0), closed.at[i].set(kind), codes.at[i].set(open_code)

    def going(carry: tuple) -> jax.Array:
        i, state, *_ = carry
        return (i < TURNS) & jnp.any(text[slots, state["place"]] >= 0)

    blank = jnp.zeros((TURNS, n_slots), jnp.uint8), jnp.zeros((TURNS, n_slots, rules.n_limbs), jnp.uint32)
    n_turns, state, busy, closed, codes = jax.lax.while_loop(
        going, turn, (jnp.int32(0), state, jnp.zeros(n_slots, jnp.int32), *blank)
    )
    return state, state["place"], jnp.full(n_slots, n_turns), busy, closed.T, jnp.moveaxis(codes, 0, 1)


def _decode_turns(
    params: exact.ExactParams,
    rows: tuple[dict, jax.Array, jax.Array],
    *,
    config: exact.ExactConfig,
    rules: WindowRules,
) -> tuple[dict, jax.Array, jax.Array]:
    """Runs up to `TURNS` steps of each slot.

    Args:
        params: M1's weights.
        rows: (state, codes, n_codes). codes: uint32[B, N, K], of which the first n_codes int32[B] are valid;
            `state["place"]` is the index of the open one.
        config: M1's shape.
        rules: parameters of the codec.

    Returns:
        (state, taken: bool[B, TURNS], symbols: uint8[B, TURNS]): the steps that decoded a byte, and the byte.
    """
    state, codes, n_codes = rows
    slots = jnp.arange(codes.shape[0])

    def turn(carry: tuple) -> tuple:
        i, state, taken, symbols = carry
        cdf, total, cache = _table(config, params, state, rules)
        code_limbs = jnp.moveaxis(codes[slots, jnp.minimum(state["place"], codes.shape[1] - 1)], -1, 0)
        wanted, at_root = tuple(code_limbs), state["depth"] == 0
        symbol = _find(rules.rule, state, cdf, total, wanted)
        lo, size, code, exists = _take(state, symbol, cdf, total, rules)
        open_ = state["place"] < n_codes
        take = open_ & exists
        depth = state["depth"] + 1
        found = limbs.equal(code, wanted)
        match = jnp.where(found, depth, jnp.where(at_root, 0, state["match"]))
        close = (open_ & ~exists) | (take & found & (rules.fill != "paper"))
        read = dict(lo=lo, size=size, code=code, match=match, depth=depth, context=state["context"] + 1, last=symbol)
        new = _update(take, read, state)
        # A code without a text decodes to the longest text on the path to it.
        new["match"] = jnp.where(close & (new["match"] == 0), new["depth"], new["match"])
        new = _update(close, {"depth": 0, "place": state["place"] + 1}, new)
        new = new | _reset(new, close, rules) | {"cache": cache}
        return i + 1, new, taken.at[i].set(take), symbols.at[i].set(symbol.astype(jnp.uint8))

    blank = jnp.zeros((TURNS, codes.shape[0]), jnp.uint8)
    _, state, taken, symbols = jax.lax.while_loop(
        lambda carry: (carry[0] < TURNS) & jnp.any(carry[1]["place"] < n_codes),
        turn,
        (jnp.int32(0), state, blank > 0, blank),
    )
    return state, taken.T, symbols.T
