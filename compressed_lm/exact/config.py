"""Integer parameters of an exact model: their shape, their hash, and checks of those from untrusted sources.

Outside the checked ranges integers overflow or float32 rounds them, and tables differ between machines.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from compressed_lm.coding.tables import END
from compressed_lm.errors import InputError

if TYPE_CHECKING:  # models need JAX, and codecs that run on CPU load without it
    from compressed_lm.models.config import TransformerConfig

N_SYMBOLS = END + 1
"""256 bytes and the end of a document."""

GATE_RANGE = 2047
"""Range of the two factors of a gated MLP; their product stays below 2**22."""

AVERAGE_SCALE = 8
"""Attention outputs have a resolution of one eighth of a value unit before they are rounded to int8."""

ExactParams = dict[str, dict[str, np.ndarray]]

MAX_LAYERS, MAX_WIDTH = 256, 1024
_WEIGHT, _INPUT, _FACTOR, _SHIFT, _VALUE = (-127, 127), (1, (1 << 18) - 1), (0, 32767), (13, 42), (-(1 << 24), 1 << 24)


@dataclasses.dataclass(frozen=True)
class ExactConfig:
    """Shape of an exact model.

    Attributes:
        n_layers, d_model, n_heads, d_head, d_ff: as in `TransformerConfig`.
        context: largest number of positions L; a byte's table depends on at most the L - 1 bytes before it.
    """  # `fingerprint` hashes these names

    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_ff: int
    context: int

    @property
    def n_params(self) -> int:
        """Number of weights without embeddings: the N in 2 N operations per byte."""
        return self.n_layers * (4 * self.d_model * self.n_heads * self.d_head + 3 * self.d_model * self.d_ff)


def fingerprint(params: ExactParams, config: ExactConfig) -> str:
    """Returns a SHA-256 hex digest of everything that the tables depend on."""
    digest = hashlib.sha256(b"compressed_lm exact 1" + json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    for group in sorted(params):
        for name in sorted(params[group]):
            value = np.ascontiguousarray(params[group][name])
            digest.update(f"{group}/{name}:{value.dtype.str}:{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


def check_exactable(config: "TransformerConfig", context: int) -> None:
    """Checks that float32 can hold all integers of the exact form of a model.

    Raises:
        InputError: the shape is out of bounds; the message lists all problems.
    """
    problems = []
    if config.position != "relative":
        problems.append(f"position={config.position} (relative is needed: its bias becomes a table of integers)")
    if not config.gated_mlp or config.activation != "relu":
        problems.append(f"gated_mlp={config.gated_mlp}, activation={config.activation} (gated relu is needed)")
    if (config.norm, config.norm_eps, config.qk_norm) != ("rms", 1e-6, False):
        problems.append(
            f"norm={config.norm}, norm_eps={config.norm_eps}, qk_norm={config.qk_norm} (rms, 1e-06, False is needed)"
        )
    if config.bias != "none" or config.parallel_residual:
        problems.append(f"bias={config.bias}, parallel_residual={config.parallel_residual} (none, False is needed)")
    others = dict(norm_place="before", window=0, embed_scale=1.0, attention_scale=0.0, logit_softcap=0.0)
    problems += [
        f"{name}={getattr(config, name)} ({value} is needed)"
        for name, value in others.items()
        if getattr(config, name) != value
    ]
    if config.kv_heads != config.n_heads:
        problems.append(f"n_kv_heads={config.n_kv_heads} (n_heads={config.n_heads} is needed)")
    if (config.weights, config.activations) != ("dense", "dense"):
        problems.append(f"weights={config.weights}, activations={config.activations} (dense is needed)")
    widths = {
        "d_model": config.d_model,
        "d_ff": config.d_ff,
        "n_heads * d_head": config.n_heads * config.d_head,
        "context": context,
    }
    problems += [f"{name}={width} (at most 1024)" for name, width in widths.items() if width > 1024]
    if config.vocab_size < N_SYMBOLS:
        problems.append(f"vocab_size={config.vocab_size} (at least {N_SYMBOLS}: M1 is a model over the bytes codec)")
    if problems:
        raise InputError(
            "This model cannot be used as M1, because its integer form would not be exact: "
            + "; ".join(problems)
            + ". Train M1 with a configuration within these bounds."
        )


def check(params: Mapping[str, Mapping[str, np.ndarray]], config: ExactConfig) -> None:
    """Checks that parameters are those of an exact model of a configuration.

    Args:
        params: integer arrays by part and name.
        config: the configuration; its fields may have any value.

    Raises:
        ValueError: a wrong field, name, shape, type or value.
    """
    for name, value in vars(config).items():
        high = MAX_LAYERS if name == "n_layers" else MAX_WIDTH
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
            raise ValueError(f"{name} is {value!r:.40}; expected a whole number from 1 to {high}")
    if config.n_heads * config.d_head > MAX_WIDTH:
        raise ValueError(f"n_heads * d_head is {config.n_heads * config.d_head}; expected at most {MAX_WIDTH}")
    expected = _expected(config)
    if params.keys() != expected.keys():
        raise ValueError(f"its parts are {', '.join(sorted(params))[:80]}; expected {', '.join(expected)[:80]}")
    for part, arrays in expected.items():
        if params[part].keys() != arrays.keys():
            raise ValueError(f"{part} has {', '.join(sorted(params[part]))[:80]}; expected {', '.join(arrays)[:80]}")
        for name, (shape, dtype, (low, high)) in arrays.items():
            found = params[part][name]
            if found.shape != shape or found.dtype != dtype:
                raise ValueError(f"{part}/{name} is {found.dtype}{found.shape}; expected {np.dtype(dtype)}{shape}")
            if found.size and not low <= found.min() <= found.max() <= high:
                raise ValueError(
                    f"{part}/{name} has values from {found.min()} to {found.max()}; expected {low} to {high}"
                )


def _expected(c: ExactConfig) -> dict[str, dict[str, tuple]]:
    """Returns (shape, type, range) of each array, by part and name."""
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
