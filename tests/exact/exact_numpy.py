"""Reference implementation of `exact.device` in NumPy int64, without compilation.

It is written from the formulas, not from the code of `exact.device`: a rescaling is one 64-bit product, a square root
is NumPy's, and matrix products are of integers. Both programs give the same bits if no value in `exact.device` exceeds
32 bits or, in a matrix product in float32, 2**24; `check_bounds` proves this for given inputs.
"""

import numpy as np

EXACT_SUM = 1 << 24
"""float32 holds every integer below this: no partial sum of a matrix product may reach it, in any order."""

N_SYMBOLS = 257
FRACTION_BITS = 8
GATE_RANGE = 2047
AVERAGE_SCALE = 8


class _Arithmetic:
    """Operations of exact inference; with `check`, they raise OverflowError if a value is out of bounds."""

    def __init__(self, check: bool):
        self.check = check

    def bound(self, what: str, x, low: int, high: int):
        """Returns x after a check of low <= x < high."""
        if self.check and np.size(x) and not low <= np.min(x) <= np.max(x) < high:
            raise OverflowError(
                f"{what} runs from {int(np.min(x))} to {int(np.max(x))}; the bound is {low} to {high - 1}."
            )
        return x

    def int32(self, what: str, x):
        return self.bound(what, x, -(1 << 31), 1 << 31)

    def product(self, what: str, x, w):
        """Returns x @ w of int64; the sum of magnitudes (exact in float64, which is fast) bounds every partial sum."""
        if self.check:
            self.bound(what, np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64), 0, EXACT_SUM)
        return x @ w

    def rescale(self, what: str, x, multiplier, shift):
        """Returns round(x * multiplier / 2**shift), halves up."""
        self.bound(f"{what}: input", x, -(1 << 28) + 1, 1 << 28)
        self.bound(f"{what}: multiplier", multiplier, 0, 1 << 15)
        self.bound(f"{what}: shift", shift, 13, 43)
        half = 1 << int(shift) - 1
        self.int32(f"{what}: product in units of 2**12", (x * multiplier + half) >> 12)
        return (x * multiplier + half) >> int(shift)

    def normalise(self, what: str, h, multiplier):
        """Returns round(h * multiplier / norm of h) clipped to int8; h is first rounded to 11 bits."""
        self.bound(f"{what}: multiplier", multiplier, 0, 1 << 18)
        largest = np.abs(h).max(-1, keepdims=True)
        shift = np.frexp(largest.astype(np.float64))[1].astype(np.int64) - 11  # bits of the largest, without sign
        shift = np.where(largest == 0, -11, shift)
        down, up = np.maximum(shift, 0), np.maximum(-shift, 0)
        h = np.where(shift > 0, (h + ((1 << down) >> 1)) >> down, h << up)
        squares = self.bound(f"{what}: squares", (h * h).sum(-1, keepdims=True), 0, 1 << 32)
        norm = np.maximum(np.floor(np.sqrt(squares.astype(np.float64))).astype(np.int64), 1)
        numerator = self.int32(f"{what}: numerator", 2 * h * multiplier + norm)
        return np.clip(numerator // (2 * norm), -127, 127)

    def exp2_negative(self, x):
        """Returns 2**15 * 2**(-x / 2**8) for x >= 0, with a cubic polynomial of the fraction."""
        self.bound("exponent", x, 0, 1 << 31)
        t, whole = x % 256, np.minimum(x // 256, 17)
        value = 32768 - (22662 - (7575 - 1296 * t // 256) * t // 256) * t // 256
        return (value + ((1 << whole) >> 1)) >> whole


def _attention(a: _Arithmetic, p: dict, q, k, v, distance):
    """Returns causal attention int64[B, L, H * K] of q, k, v int64[B, H, L, K]."""
    scores = a.product("scores", q, k.swapaxes(-1, -2))
    scores = a.rescale("scores", scores, p["score_multiplier"][:, None, None], p["score_shift"])
    bias = a.bound("bias", p["bias"], -(1 << 29), 1 << 29)[:, np.maximum(distance, 0)]
    scores = np.where(distance >= 0, a.bound("scores", scores + bias, -(1 << 30), 1 << 30), -(1 << 30))
    weights = a.exp2_negative(scores.max(-1, keepdims=True) - scores) >> 1
    total = 128 * a.product("attention, high half", weights >> 7, v) + a.product(
        "attention, low half", weights & 127, v
    )
    a.int32("attention", total)
    weight = weights.sum(-1, keepdims=True) >> 4
    average = a.int32("average", (total >> 4) * AVERAGE_SCALE + (weight >> 1)) // weight
    average = average.swapaxes(1, 2).reshape(len(q), q.shape[2], -1)
    return np.clip(a.rescale("average", average, p["average_multiplier"], p["average_shift"]), -127, 127)


def logits(params, config, inputs, *, check_bounds: bool = False) -> np.ndarray:
    """Returns int64[B, L, 257], the logits after each input in units of 2**-8 bits, as `exact.device.forward` does.

    Args:
        params: integer parameters, from `models.calibration.quantise` or a saved M1.
        config: their `ExactConfig`.
        inputs: integers[B, L], L <= context; the first of a row is 256, the others are bytes.
        check_bounds: raise OverflowError if 32-bit integers, or float32 in a product, cannot hold a value.
    """
    a, inputs = _Arithmetic(check_bounds), np.asarray(inputs)
    params = {part: {k: np.asarray(v, np.int64) for k, v in group.items()} for part, group in params.items()}
    batch, length = inputs.shape
    a.bound("length", length, 1, min(config.context, 1024) + 1)
    distance = np.arange(length)[:, None] - np.arange(length)[None]

    def project(name: str, p: dict, x):
        a.bound(f"{name}: weights", p[name], -127, 128)
        product = a.product(name, x, p[name])
        return a.rescale(name, product, p[f"{name}_multiplier"], p[f"{name}_shift"])

    h = params["embed"]["table"][inputs]
    for i in range(config.n_layers):
        p = params[f"layer_{i}"]
        x = a.normalise("attention", a.int32("residual stream", h), p["attention_in"])
        q, k, v = (
            np.clip(project(name, p, x), -127, 127).reshape(batch, length, config.n_heads, config.d_head).swapaxes(1, 2)
            for name in "qkv"
        )
        h = a.int32("residual stream", h + project("out", p, _attention(a, p, q, k, v, distance)))
        x = a.normalise("mlp", h, p["mlp_in"])
        up = np.clip(project("up", p, x), -GATE_RANGE, GATE_RANGE)
        gate = np.clip(project("gate", p, x), 0, GATE_RANGE)
        product = a.rescale("product", up * gate, p["product_multiplier"], p["product_shift"])
        h = a.int32("residual stream", h + project("down", p, np.clip(product, -127, 127)))
    p = params["final"]
    product = a.product("unembed", a.normalise("final", h, p["in"]), a.bound("unembed", p["unembed"], -127, 128))
    return a.bound("logits", a.rescale("logits", product, p["logit_multiplier"], p["logit_shift"]), -(1 << 30), 1 << 30)


def frequencies(params, config, inputs, *, check_bounds: bool = False) -> np.ndarray:
    """Returns the coder's tables after each input: uint32[B, L, 257], each entry at least 1, with sum 2**16.

    The arguments are those of `logits`.
    """
    scores = logits(params, config, inputs, check_bounds=check_bounds)
    a = _Arithmetic(check_bounds)
    weights = a.exp2_negative(scores.max(-1, keepdims=True) - scores)
    total = a.bound("sum of weights", weights.sum(-1, keepdims=True), 1, 1 << 32)
    shares = a.bound("share", weights * (65536 - N_SYMBOLS), 0, 1 << 32) // total
    rest = a.bound("rest", 65536 - (1 + shares).sum(-1, keepdims=True), 0, 65536)
    heaviest = np.arange(N_SYMBOLS) == weights.argmax(-1)[..., None]
    return (1 + shares + rest * heaviest).astype(np.uint32)
