"""Training step of our model in plain JAX: a dictionary of arrays and two functions, no framework.

The extra time of `training.Program` is the overhead of the framework. Parameters have the names and shapes of
`models.Transformer` with stacked layers, so that both can start from the same parameters.
"""

import functools

import jax
import jax.numpy as jnp

from compressed_lm.models import TransformerConfig, relative_buckets
from compressed_lm.training import TrainConfig

EPSILON = 1e-8


class JaxFloor:
    """Plain JAX training step, compiled once for batches int32[B, L].

    Args:
        config, model_config: as for `training.Program`; AdamW with a constant learning rate.
        eod_id: id put before each row.
        scan_layers: loop over the layers in the compiled program instead of unrolling them.
    """

    def __init__(self, config: TrainConfig, model_config: TransformerConfig, eod_id: int, *, scan_layers: bool = False):
        step = functools.partial(train_step, config=config, model_config=model_config, eod_id=eod_id, scan=scan_layers)
        self._step = jax.jit(step, donate_argnums=0)

    def load(self, params) -> None:
        """Resets model and optimizer to a parameter tree."""
        params = jax.tree.map(jnp.array, params)
        zeros = functools.partial(jax.tree.map, jnp.zeros_like)
        self._state = params, zeros(params), zeros(params), jnp.zeros((), jnp.int32)

    def step(self, targets) -> tuple[float, float]:
        """Makes one update on targets int32[B, L]; returns (loss in nats per token, gradient norm)."""
        self._state, metrics = self._step(self._state, targets)
        return tuple(map(float, jax.device_get(metrics)))

    def params(self):
        return self._state[0]


def train_step(state, targets, *, config, model_config, eod_id, scan):
    params, mean, square, step = state
    parts = config.micro_batches

    def add(total, rows):
        (_, loss), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            params, rows, model_config, eod_id, config.z_loss, scan
        )
        return jax.tree.map(lambda total, part: total + part / parts, total, (gradient, loss)), None

    zeros = jax.tree.map(jnp.zeros_like, params), jnp.zeros(())
    (gradient, loss), _ = jax.lax.scan(add, zeros, targets.reshape(parts, -1, targets.shape[1]))
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    clip = jnp.minimum(1, config.grad_clip / norm)
    step += 1

    def update(path, param, gradient, mean, square):
        gradient = gradient * clip
        mean = config.b1 * mean + (1 - config.b1) * gradient
        square = config.b2 * square + (1 - config.b2) * jnp.square(gradient)
        direction = (mean / (1 - config.b1**step)) / (jnp.sqrt(square / (1 - config.b2**step)) + EPSILON)
        decay = config.weight_decay if path[-1].key == "kernel" else 0
        return param - config.learning_rate * (direction + decay * param), mean, square

    updated = jax.tree.map_with_path(update, params, gradient, mean, square)
    params, mean, square = jax.tree.transpose(jax.tree.structure(params), None, updated)
    return (params, mean, square, step), (loss, norm)


def loss_fn(params, targets, config, eod_id, z_loss, scan):
    """Returns (loss with z-loss, loss in nats per token)."""
    inputs = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=eod_id)
    x = params["embed"]["embedding"].astype(config.dtype)[inputs]
    if scan:
        x, _ = jax.lax.scan(lambda x, layer: (block(x, layer, config), None), x, params["layers"])
    else:
        for i in range(config.n_layers):
            x = block(x, jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"]), config)
    logits = dense(norm(x, params["final_norm"]), params["unembed"]).astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, 2)
    nats = log_z - jnp.sum(jnp.where(ids == targets[..., None], logits, 0), axis=-1)
    loss = jnp.mean(nats)
    return loss + z_loss * jnp.mean(jnp.square(log_z)), loss


def block(x, layer, config):
    """Returns x [B, L, D] after attention and MLP."""
    x = x + attention(norm(x, layer["attention_norm"]), layer["attention"], config)
    y, mlp = norm(x, layer["mlp_norm"]), layer["mlp"]
    activation = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "silu": jax.nn.silu}[config.activation]
    return x + dense(dense(y, mlp["up"]) * activation(dense(y, mlp["gate"])), mlp["down"])


def attention(x, layer, config):
    batch, length, _ = x.shape
    q, k, v = (dense(x, layer[name]).reshape(batch, length, -1, config.d_head) for name in "qkv")  # [B, L, H, K]
    if config.position == "rotary":
        q, k = rotate(q), rotate(k)
    scores = jnp.einsum("bqhk,bshk->bhqs", q * config.d_head**-0.5, k).astype(jnp.float32)
    if config.position == "relative":
        buckets = relative_buckets(length, n_buckets=config.n_buckets, max_distance=config.max_distance)
        past = jax.nn.one_hot(buckets, config.n_buckets) @ layer["relative_bias"]["embedding"]  # [L, H]
        # Rows of length 2L - 1 of a sequence with period 2L shift by one per row: bias[i, j] = past[i - j], or -1e30.
        diagonals = jnp.tile(jnp.concatenate([past[::-1], jnp.full_like(past, -1e30)]).T, (1, length))
        bias = diagonals[:, length - 1 : length - 1 + length * (2 * length - 1)].reshape(-1, length, 2 * length - 1)
        scores = add_bias(scores, bias[:, :, :length])
    else:
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return dense(jnp.einsum("bhqs,bshk->bqhk", weights, v).reshape(batch, length, -1), layer["out"])


@jax.custom_vjp
def add_bias(scores, bias):
    """Returns scores [B, H, L, L] + bias [H, L, L]."""
    return scores + bias


def add_bias_bwd(_, gradient):
    # A matrix product: the sum of XLA over the first axis is slow on CPU.
    return gradient, jnp.einsum("bhqs,b->hqs", gradient, jnp.ones(len(gradient)))


add_bias.defvjp(lambda scores, bias: (scores + bias, None), add_bias_bwd)


def rotate(x):
    """Returns x [B, L, H, K] with rotary positions: both halves of K rotated by position-dependent angles."""
    half = x.shape[-1] // 2
    angles = jnp.outer(jnp.arange(x.shape[1]), 10_000.0 ** (-jnp.arange(half) / half))[:, None]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def norm(x, layer):
    """Returns the RMSNorm of x: x divided by its root mean square."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + 1e-6)
    return (y * layer["scale"]).astype(x.dtype)


def dense(x, layer):
    """Returns the product of x [..., inputs] and a kernel [inputs, outputs]."""
    kernel = layer["kernel"].astype(x.dtype)
    return (x.reshape(-1, kernel.shape[0]) @ kernel).reshape(*x.shape[:-1], -1)
