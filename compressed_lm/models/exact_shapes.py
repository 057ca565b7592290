"""What the parameters of an exact model have to be: shapes, types and ranges, for files of somebody else.

Outside of these ranges integers would overflow, or float32 would round them, and tables would differ between machines.
"""

import numpy as np

from compressed_lm.coding.tables import END

N_SYMBOLS = END + 1
"""The 256 bytes and the end of a document."""

MAX_LAYERS, MAX_WIDTH = 256, 1024
_WEIGHT, _INPUT, _FACTOR, _SHIFT, _VALUE = (-127, 127), (1, (1 << 18) - 1), (0, 32767), (13, 42), (-(1 << 24), 1 << 24)


def check(params, config) -> None:
    """Raises ValueError unless the parameters are those of an exact model of this configuration."""
    for name, value in vars(config).items():
        high = MAX_LAYERS if name == "n_layers" else MAX_WIDTH
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
            raise ValueError(f"{name} is {value!r:.40}, and a whole number from 1 to {high} was expected")
    if config.n_heads * config.d_head > MAX_WIDTH:
        raise ValueError(f"n_heads * d_head is {config.n_heads * config.d_head}, and at most {MAX_WIDTH} was expected")
    expected = _expected(config)
    if params.keys() != expected.keys():
        raise ValueError(f"its parts are {', '.join(sorted(params))[:80]}; expected {', '.join(expected)[:80]}")
    for room, arrays in expected.items():
        if params[room].keys() != arrays.keys():
            raise ValueError(f"{room} has {', '.join(sorted(params[room]))[:80]}; expected {', '.join(arrays)[:80]}")
        for name, (shape, dtype, (low, high)) in arrays.items():
            found = params[room][name]
            if found.shape != shape or found.dtype != dtype:
                raise ValueError(f"{room}/{name} is {found.dtype}{found.shape}; expected {np.dtype(dtype)}{shape}")
            if found.size and not low <= found.min() <= found.max() <= high:
                raise ValueError(
                    f"{room}/{name} has values from {found.min()} to {found.max()}, outside {low} to {high}"
                )


def _expected(c) -> dict[str, dict[str, tuple]]:
    """Shape, type and range of each array, by part and name."""
    inner = c.n_heads * c.d_head
    layer = {
        "attention_in": ((c.d_model,), "i4", _INPUT),
        "mlp_in": ((c.d_model,), "i4", _INPUT),
        "bias": ((c.n_heads, c.context), "i4", _VALUE),
        "score_multiplier": ((c.n_heads,), "i4", _FACTOR),
        "average_multiplier": ((inner,), "i4", _FACTOR),
        "product_multiplier": ((c.d_ff,), "i4", _FACTOR),
        **{f"{name}_shift": ((), "i4", _SHIFT) for name in ("score", "average", "product")},
    }
    shapes = dict.fromkeys("qkv", (c.d_model, inner)) | {"out": (inner, c.d_model)}
    shapes |= dict.fromkeys(("up", "gate"), (c.d_model, c.d_ff)) | {"down": (c.d_ff, c.d_model)}
    for name, shape in shapes.items():
        layer[name] = shape, "i1", _WEIGHT
        layer[f"{name}_multiplier"] = shape[1:], "i4", _FACTOR
        layer[f"{name}_shift"] = (), "i4", _SHIFT
    return {
        "embed": {"table": ((N_SYMBOLS, c.d_model), "i4", _VALUE)},
        **{f"layer_{i}": layer for i in range(c.n_layers)},
        "final": {
            "in": ((c.d_model,), "i4", _INPUT),
            "unembed": ((c.d_model, N_SYMBOLS), "i1", _WEIGHT),
            "logit_multiplier": ((N_SYMBOLS,), "i4", _FACTOR),
            "logit_shift": ((), "i4", _SHIFT),
        },
    }
