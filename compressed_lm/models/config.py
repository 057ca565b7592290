"""Configuration of a Transformer, and its numbers of parameters and FLOPs."""

import dataclasses
import math
from typing import Any

from compressed_lm import settings, specs
from compressed_lm.errors import InputError
from compressed_lm.settings import setting
from compressed_lm.weights import representation

ACTIVATIONS = ("relu", "gelu", "silu", "gelu_erf")
POSITIONS = ("relative", "rotary", "learned")
NORMS = ("rms", "layer")
NORM_PLACES = ("before", "after", "both")
QK_NORMS = ("head", "width")
LOCAL, GLOBAL = "l", "g"  # in `layer_pattern`
BIASES = ("none", "qkv", "all")
DTYPES = ("float32", "bfloat16")
ATTENTION = ("auto", "xla", "cudnn")
REMAT = ("none", "dots", "full")
MAX_LAYERS, MAX_WIDTH = 10_000, 2**22  # ten times any existing model: typing errors are reported at once
_FLOATS = (
    *("init_shape", "norm_eps", "rope_theta", "rotary_fraction", "local_rope_theta", "embed_scale"),
    *("attention_scale", "logit_softcap"),
)
_ROPE_SCALINGS = {
    "none": {},
    "linear": {"factor": specs.Option(float, 8.0)},
    "llama3": {
        "factor": specs.Option(float, 8.0),
        "low": specs.Option(float, 1.0),
        "high": specs.Option(float, 4.0),
        "length": specs.Option(int, 8192),
    },
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Shape of a Transformer.

    Attributes:
        vocab_size: V, from `model_vocab_size`.
        d_model: D, width of the residual stream.
        n_layers: number of blocks.
        n_heads: H.
        d_head: K; H * K need not equal D.
        d_ff: F, width of the MLP.
        n_kv_heads: heads of keys and values, each shared by H / n_kv_heads query heads (grouped-query attention); 0 for
            H.
        gated_mlp: down(up(x) * act(gate(x))) instead of down(act(up(x))).
        activation: relu, gelu (tanh approximation), silu or gelu_erf (exact gelu).
        position: "relative" (T5 buckets), "rotary" or "learned" (a table of `max_length` vectors, added to the
            embeddings).
        max_length: with learned positions, the largest number of positions; otherwise 0.
        n_buckets: rows of a relative-position table.
        max_distance: distances from this value on share the last bucket.
        qk_norm: normalise queries and keys, so that attention does not saturate at high learning rates.
        qk_norm_over: what is normalised: "head", each head, or "width", all heads together.
        tie_embeddings: use the input embedding as the output layer.
        norm: "rms" (RMSNorm, a scale) or "layer" (LayerNorm, a scale and a bias).
        norm_eps: number added to the mean square in a norm.
        norm_place: norms "before" attention and MLP, "after" them (before their result is added to the residual stream)
            or "both".
        bias: which matrices of the blocks have a bias: "none", "qkv" (queries, keys and values) or "all".
        parallel_residual: attention and MLP both read the input of the block, instead of one after the other.
        rope_theta: base of the rotary frequencies.
        rope_scaling: change of the frequencies for longer texts: "none"; "linear(factor=8)", which multiplies all
            wavelengths by `factor`; or "llama3(factor=8,low=1,high=4,length=8192)": wavelengths above length / low are
            multiplied by `factor`, those below length / high are unchanged.
        local_rope_theta: base of the frequencies of layers with a window, which have no scaling; 0 for `rope_theta` and
            `rope_scaling`.
        rotary_fraction: share of each head, counted from its first number, that rotary positions rotate.
        window: number of tokens, its own included, that a token attends to in layers with a window; 0 for all tokens
            before it.
        layer_pattern: which layers have the window: letters l (local, with it) and g (global), repeated over the
            layers; empty for all layers.
        embed_scale: factor of the embeddings of tokens where they enter the model.
        attention_scale: factor of the scores; 0 for d_head^-0.5.
        logit_softcap: c, if logits are c tanh(logits / c); 0 for no cap.
        dtype: type of the matrix products, float32 or bfloat16.
        weights, activations: representations of the blocks' matrices and of their inputs, such as "int(b=4)" (see
            `compressed_lm.weights`). Embeddings and the output layer stay dense.
        init_shape: shape of the generalized Gaussian that initialises the blocks' matrices and the output layer; the
            variance is unchanged (`weights.gennorm.gg_initializer`). 0 for a truncated normal.
        attention: "xla", "cudnn" (flash attention on NVIDIA GPUs, bfloat16 only) or "auto": cudnn if it can run and
            no relative-position bias needs a gradient through it, otherwise xla. cudnn has not been run yet.
        remat: what the backward pass recomputes: "none", "dots" (everything except products with matrices) or "full"
            (whole layers).
        scan_layers: compile one layer and loop over it, instead of compiling a copy per layer. Compile time is that of
            one layer. The parameters are the same.
    """

    vocab_size: int = setting(low=1)
    d_model: int = setting(128, low=1, high=MAX_WIDTH)
    n_layers: int = setting(2, low=1, high=MAX_LAYERS)
    n_heads: int = setting(4, low=1, high=MAX_WIDTH)
    d_head: int = setting(32, low=1, high=MAX_WIDTH)
    d_ff: int = setting(512, low=1, high=MAX_WIDTH)
    n_kv_heads: int = setting(0, low=0, high=MAX_WIDTH)
    gated_mlp: bool = True
    activation: str = setting("relu", choices=ACTIVATIONS)
    position: str = setting("relative", choices=POSITIONS)
    n_buckets: int = setting(32, low=2, high=MAX_WIDTH)
    max_distance: int = setting(128, low=1)
    qk_norm: bool = False
    tie_embeddings: bool = False
    norm: str = setting("rms", choices=NORMS)
    norm_eps: float = setting(1e-6, above=0)
    bias: str = setting("none", choices=BIASES)
    parallel_residual: bool = False
    rope_theta: float = setting(10_000.0, above=1)
    rope_scaling: str = "none"
    rotary_fraction: float = setting(1.0, above=0, high=1)
    dtype: str = setting("float32", choices=DTYPES)
    weights: str = "dense"
    activations: str = "dense"
    init_shape: float = 0.0
    attention: str = setting("auto", choices=ATTENTION)
    remat: str = setting("none", choices=REMAT)
    scan_layers: bool = True
    max_length: int = setting(0, low=0)
    qk_norm_over: str = setting("head", choices=QK_NORMS)
    norm_place: str = setting("before", choices=NORM_PLACES)
    local_rope_theta: float = setting(0.0, low=0)
    window: int = setting(0, low=0)
    layer_pattern: str = ""
    embed_scale: float = setting(1.0, above=0)
    attention_scale: float = setting(0.0, low=0)
    logit_softcap: float = setting(0.0, low=0)

    def __post_init__(self) -> None:
        settings.check(self)
        if self.n_heads % self.kv_heads:
            raise InputError(
                f"n_kv_heads={self.n_kv_heads} was given with n_heads={self.n_heads}; expected 0 (the same number) or "
                "a divisor of n_heads."
            )
        if self.position == "rotary" and (self.rotary_dims % 2 or not self.rotary_dims):
            raise InputError(
                f"d_head={self.d_head} was given; rotary positions rotate pairs of numbers, so use an even d_head."
                if self.rotary_fraction == 1
                else f"d_head={self.d_head} and rotary_fraction={self.rotary_fraction} were given, so rotary positions "
                f"rotate {self.rotary_dims} numbers; expected an even number, because they rotate pairs. Change one of "
                "the two."
            )
        if self.position == "relative" and not self.n_buckets < 2 * self.max_distance:
            raise InputError(
                f"n_buckets={self.n_buckets} and max_distance={self.max_distance} were given; expected a "
                "max_distance above n_buckets / 2, because the first half of the buckets holds one distance each."
            )
        self._check_positions()
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise InputError(f"attention='cudnn' was given with dtype={self.dtype!r}; expected dtype='bfloat16'.")
        if not (self.init_shape == 0 or 0.1 <= self.init_shape < math.inf):
            raise InputError(
                f"init_shape={self.init_shape} was given; expected the shape of a generalized Gaussian, 0.1 or more "
                "(1 for Laplace, 2 for a Gaussian), or 0 for a truncated normal."
            )

        for field in _FLOATS:
            object.__setattr__(self, field, float(getattr(self, field)))
        object.__setattr__(self, "rope_scaling", _canonical(self.rope_scaling))
        object.__setattr__(self, "layer_pattern", self._shortest_pattern())
        for field in ("weights", "activations"):  # canonical specs, so that equal runs have equal records
            object.__setattr__(self, field, str(representation(getattr(self, field))))
        if "rule=rigl" in self.activations:
            raise InputError(
                f"activations={self.activations} was given; rule=rigl chooses weights over many steps, but activations "
                "change at every step. Use another rule for activations."
            )

    def _check_positions(self) -> None:
        """Raises InputError if settings of positions, windows and norms contradict each other."""
        if (self.max_length > 0) != (self.position == "learned"):
            raise InputError(
                f"max_length={self.max_length} was given with position={self.position!r}; expected a positive "
                "max_length for learned positions, and 0 for others."
            )
        if wrong := set(self.layer_pattern) - {LOCAL, GLOBAL}:
            raise InputError(
                f"layer_pattern={self.layer_pattern!r} was given, with {', '.join(map(repr, sorted(wrong)))}; expected "
                "letters l (local) and g (global), such as 'lllllg', or nothing if all layers are local."
            )
        if not self.window and (self.layer_pattern or self.local_rope_theta):
            raise InputError(
                f"layer_pattern={self.layer_pattern!r} and local_rope_theta={self.local_rope_theta} were given without "
                "a window; set window to the number of tokens that a local layer attends to."
            )
        if self.window and LOCAL not in (self.layer_pattern or LOCAL)[: self.n_layers]:
            raise InputError(
                f"window={self.window} was given, but layer_pattern={self.layer_pattern!r} has no local layer; set "
                "window=0 and an empty layer_pattern."
            )
        if self.local_rope_theta and not (self.position == "rotary" and self.local_rope_theta > 1):
            raise InputError(
                f"local_rope_theta={self.local_rope_theta} was given with position={self.position!r}; expected rotary "
                "positions and a base above 1, or 0."
            )
        if self.qk_norm_over != "head" and not self.qk_norm:
            raise InputError(f"qk_norm_over={self.qk_norm_over!r} was given with qk_norm=False; set qk_norm=True.")
        if self.attention == "cudnn" and self.window:
            raise InputError(f"attention='cudnn' was given with window={self.window}; set attention='xla'.")

    def _shortest_pattern(self) -> str:
        """Returns the shortest layer pattern of these layers, so that equal models have equal records."""
        pattern = "".join(LOCAL if local else GLOBAL for local in self.local_layers)
        if GLOBAL not in pattern or not self.window:
            return ""
        return next(pattern[:n] for n in range(1, len(pattern) + 1) if pattern.startswith(pattern[n:]))

    @property
    def local_layers(self) -> tuple[bool, ...]:
        """Whether each layer has the window."""
        pattern = self.layer_pattern or LOCAL
        return tuple(bool(self.window) and pattern[i % len(pattern)] == LOCAL for i in range(self.n_layers))

    @property
    def score_scale(self) -> float:
        """Factor of the attention scores."""
        return self.attention_scale or self.d_head**-0.5

    @property
    def noisy(self) -> bool:
        """Whether a representation adds noise and needs a random key."""
        return any(representation(spec).needs_key for spec in (self.weights, self.activations))

    @property
    def kv_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def rotary_dims(self) -> int:
        """Numbers of each head that rotary positions rotate."""
        return int(self.d_head * self.rotary_fraction)


def parse_rope_scaling(spec: str) -> dict[str, int | float]:
    """Returns the options of a `rope_scaling` spec; empty for "none".

    These are `factor`, and for "llama3" also `low`, `high` and `length` (tokens).

    Raises:
        InputError: the spec cannot be read, or its numbers are out of range.
    """
    example = "llama3(factor=8,low=1,high=4,length=8192)"
    name, given = specs.parse(spec, _ROPE_SCALINGS, noun="rope_scaling", example=example)
    options: dict[str, Any] = {k: option.default for k, option in _ROPE_SCALINGS[name].items()} | given
    low, high = options.get("low", 1), options.get("high", 2)
    if options and not (1 <= options["factor"] < math.inf and 0 < low < high < math.inf):
        raise InputError(f"rope_scaling={spec!r} was given; expected a factor of at least 1 and 0 < low < high.")
    if options.get("length", 1) < 1:
        raise InputError(f"rope_scaling={spec!r} was given; expected a length of at least one token.")
    return options


def _canonical(rope_scaling: str) -> str:
    options = parse_rope_scaling(rope_scaling)
    name = "llama3" if "low" in options else "linear"
    return f"{name}({','.join(f'{k}={specs.text(v)}' for k, v in sorted(options.items()))})" if options else "none"


@dataclasses.dataclass(frozen=True)
class ParamCounts:
    """Numbers of parameters; `embedding` is the input table, the output table if it is separate, and positions."""

    total: int
    embedding: int
    non_embedding: int


def model_vocab_size(codec_vocab_size: int) -> int:
    """Returns V for a codec: its ids and one end-of-document id, rounded up to a multiple of 8."""
    return -(-(codec_vocab_size + 1) // 8) * 8


def count_params(config: TransformerConfig) -> ParamCounts:
    """Returns the numbers of parameters of a config, computed without building the model."""
    c = config
    norm = 2 if c.norm == "layer" else 1  # parameters per normalised number
    attention = 2 * c.d_model * (c.n_heads + c.kv_heads) * c.d_head
    if c.qk_norm:
        attention += norm * (2 if c.qk_norm_over == "head" else c.n_heads + c.kv_heads) * c.d_head
    if c.position == "relative":
        attention += c.n_buckets * c.n_heads
    mlp = (3 if c.gated_mlp else 2) * c.d_model * c.d_ff
    if c.bias != "none":
        attention += (c.n_heads + 2 * c.kv_heads) * c.d_head
    if c.bias == "all":
        attention += c.d_model
        mlp += (2 if c.gated_mlp else 1) * c.d_ff + c.d_model
    norms = (4 if c.norm_place == "both" else 2) * norm * c.d_model
    non_embedding = c.n_layers * (attention + mlp + norms) + norm * c.d_model
    embedding = (c.vocab_size * (1 if c.tie_embeddings else 2) + c.max_length) * c.d_model
    return ParamCounts(total=embedding + non_embedding, embedding=embedding, non_embedding=non_embedding)


def flops_per_token(config: TransformerConfig, *, softmax: bool) -> int:
    """Returns the FLOPs of one token's forward pass: 2 N_nonembed, plus 2 V D of the output layer if `softmax`.

    Source: papers/000 section 4.3. It counts norms and biases, but not the products of queries, keys and values.
    """
    return 2 * count_params(config).non_embedding + (2 * config.vocab_size * config.d_model if softmax else 0)


def training_flops_per_token(config: TransformerConfig, *, seq_len: int) -> int:
    """Returns the FLOPs of a training step per token, as counted in model FLOPs utilisation (MFU).

    One forward pass and twice as much for the backward pass: all matrices, the output layer, and the two products of
    attention (only the part below the diagonal, and within the window of a local layer). Recomputation (remat) is not
    counted.
    """
    c, near = config, min(config.window, seq_len)
    keys = sum(
        near * (2 * seq_len - near) // seq_len if local else seq_len for local in c.local_layers
    )  # twice the mean
    attention = 2 * c.n_heads * c.d_head * keys  # 2 products, 2 FLOPs
    return 3 * (flops_per_token(config, softmax=True) + attention)
