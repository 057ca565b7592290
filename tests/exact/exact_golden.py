"""Models made from integers alone, so that they are the same on every machine, and the hashes of their tables."""

import hashlib
import math

import numpy as np

from compressed_lm import exact

SMALL_TABLES = "5126fc331c2255d07456904f694690bbcebc9e30e2ecba6b8a7394a32fbd7c31"
WIDE_TABLES = "1a35c958ac88674e36cf40ad50ac5f628ef4226d03d46ed4acb8d64fa63b9a3f"

SMALL = exact.ExactConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, d_ff=64, context=64)
WIDE = exact.ExactConfig(n_layers=2, d_model=256, n_heads=4, d_head=64, d_ff=1024, context=1024)


def golden_model(config: exact.ExactConfig) -> exact.ExactParams:
    """Returns an exact model made from integers alone, so that it is the same on every machine.

    Weights and embeddings are hashes of their positions (splitmix64); multipliers keep typical activations within their
    range. The first layer reaches the bounds: head 0 attends evenly to values of 127, and the MLP has columns of equal
    weights, whose products saturate and are multiplied by weights of 127.
    """
    count = 0

    def integers(shape, low, high):
        nonlocal count
        z = (np.arange(count, count + math.prod(shape), dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        count += math.prod(shape)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (low + ((z ^ (z >> np.uint64(31))) % np.uint64(high - low + 1)).astype(np.int64)).reshape(shape)

    def linear(name, n_in, n_out, numerator, shift):
        """Returns weights of full range, and multipliers numerator / sqrt(n_in) +- 10 %."""
        middle = numerator // math.isqrt(n_in)
        return {
            name: integers((n_in, n_out), -127, 127).astype(np.int8),
            f"{name}_multiplier": (middle + integers((n_out,), -(middle // 10), middle // 10)).astype(np.int32),
            f"{name}_shift": np.int32(shift),
        }

    d, width, heads = config.d_model, config.n_heads * config.d_head, config.n_heads
    input_range = lambda: (42 * math.isqrt(d) + integers((d,), -20, 20)).astype(np.int32)  # noqa: E731
    embedding = integers((257, d), -1500, 1500).astype(np.int32)
    embedding[:, :4] = 6000  # equal at all positions, for the values of head 0
    params = {"embed": {"table": embedding}}
    for i in range(config.n_layers):
        p = {"attention_in": input_range(), "mlp_in": input_range()}
        for name in "qkv":
            p |= linear(name, d, width, 54_000, shift=22)
        p |= linear("out", width, d, 42_000, shift=18) | linear("down", config.d_ff, d, 42_000, shift=18)
        p |= linear("up", d, config.d_ff, 60_000, shift=18) | linear("gate", d, config.d_ff, 60_000, shift=18)
        p["score_multiplier"], p["score_shift"] = integers((heads,), 2000, 4000).astype(np.int32), np.int32(16)
        p["bias"] = -integers((heads, config.context), 0, 700).astype(np.int32)
        p["average_multiplier"], p["average_shift"] = integers((width,), 6000, 9000).astype(np.int32), np.int32(15)
        p["product_multiplier"] = integers((config.d_ff,), 3000, 6000).astype(np.int32)
        p["product_shift"] = np.int32(25)
        if i == 0:
            p["score_multiplier"][0], p["bias"][0] = 0, 0
            p["v"][:, : config.d_head] //= 8
            p["v"][:4, : config.d_head] = 127
            p["v_multiplier"][: config.d_head] = 32767
            half = config.d_ff // 2
            p["up"][:] = np.where(np.arange(config.d_ff) < half, p["up"][:, :1], -p["up"][:, :1])
            p["gate"][:] = p["gate"][:, :1]
            p["up_multiplier"][:] = p["gate_multiplier"][:] = p["product_multiplier"][:] = 32767
            p["down"][:, 0] = np.where(np.arange(config.d_ff) < half, 127, -127)
            p["down_multiplier"][0] = 16
        params[f"layer_{i}"] = p
    final = linear("logit", d, 257, 100_000, shift=18)
    params["final"] = {"in": input_range(), "unembed": final.pop("logit")} | final
    return params


def golden_inputs(config: exact.ExactConfig, batch: int) -> np.ndarray:
    """Returns int32[B, L]: the end-of-document id, and bytes from a fixed formula."""
    rows, columns = np.arange(batch)[:, None], np.arange(config.context)[None]
    inputs = (rows * 31 + columns * columns * 7 + columns * (rows + 3)) // 3 % 256
    inputs[:, 0] = 256
    return inputs.astype(np.int32)


def digest(freqs) -> str:
    """Returns the SHA-256 of the tables as little-endian uint32."""
    return hashlib.sha256(np.ascontiguousarray(freqs, "<u4").tobytes()).hexdigest()
