"""One update and one evaluation, as pure functions, and their compiled form."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from compressed_lm.errors import InputError
from compressed_lm.models import Transformer, TransformerConfig, shift_right
from compressed_lm.models.partitioning import BATCH
from compressed_lm.training import optimizers
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.mesh import shardings
from compressed_lm.training.penalties import BackSlash, penalised, penalty
from compressed_lm.training.rigl import rigl
from compressed_lm.weights import representation

PART_TOKENS, PART_ROWS = 512, 2  # at least so many in a micro-batch on CPU
Params = dict  # the tree inside "params", as in models/transformer.py


class TrainState(NamedTuple):
    """What an update changes: parameters, the optimizer's state, updates done int32[]."""

    params: Params
    opt_state: optax.OptState
    step: jax.Array


def token_nats(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (-log p(target), log Z), both float32[B, L] in nats; -log p is 0 where a target is negative (padding).

    Args:
        logits: float32[B, L, V].
        targets: int32[B, L].
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum, since the gradient of a gather would be a scatter into an array of the logits' size.
    ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, 2)
    chosen = jnp.sum(jnp.where(ids == targets[..., None], logits, 0), axis=-1)
    return jnp.where(targets < 0, 0, log_z - chosen), log_z


def _logits(model, params, targets, eod_id, **settings):
    return model.apply({"params": params}, shift_right(jnp.where(targets < 0, eod_id, targets), eod_id), **settings)


def train_step(
    state: TrainState,
    targets: jax.Array,
    *,
    model: Transformer,
    optimizer: optax.GradientTransformation,
    eod_id: int,
    z_loss: float,
    micro_batches: int = 1,
    seed: int = 0,
    n_steps: int = 1,
    penalty: BackSlash | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns (state after one update on targets int32[B, L], metrics before it).

    `seed` is that of the noise of representations that have any, `n_steps` the length of the run for those that change
    in its course. Metrics: `loss_nats_per_token` without the z-loss, and `grad_norm` before clipping, both without the
    penalty; with a `penalty`, which the optimizer applies, also its metrics of the weights after the update.
    """
    n_tokens = jnp.maximum(jnp.sum(targets >= 0), 1)
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    progress = state.step / n_steps

    def loss_fn(params, targets, key):
        nats, log_z = token_nats(_logits(model, params, targets, eod_id, key=key, progress=progress), targets)
        loss = jnp.sum(nats) / n_tokens
        return loss + z_loss * jnp.sum(jnp.where(targets >= 0, log_z**2, 0)) / n_tokens, loss

    grad_fn = jax.grad(loss_fn, has_aux=True)
    if micro_batches == 1:
        gradient, loss = grad_fn(state.params, targets, key)
    else:
        # Rows dealt out like cards, so that each part holds rows of every device and none has to move.
        parts = jnp.swapaxes(targets.reshape(-1, micro_batches, targets.shape[1]), 0, 1)
        keys = jax.random.split(key, micro_batches)
        add = lambda total, part: (jax.tree.map(jnp.add, total, grad_fn(state.params, *part)), None)  # noqa: E731
        zeros = jax.tree.map(jnp.zeros_like, state.params), jnp.zeros(())
        (gradient, loss), _ = jax.lax.scan(add, zeros, (parts, keys))
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    metrics = {"loss_nats_per_token": loss, "grad_norm": optax.tree.norm(gradient)}
    params = optax.apply_updates(state.params, updates)
    metrics |= penalty.metrics(params) if penalty else {}
    return TrainState(params, opt_state, state.step + 1), metrics


def eval_step(params: Params, targets: jax.Array, *, model: Transformer, eod_id: int) -> tuple[jax.Array, jax.Array]:
    """Returns (total nats float32[], number int32[]) of the targets int32[B, L] that are not negative."""
    nats, _ = token_nats(_logits(model, params, targets, eod_id), targets)
    return jnp.sum(nats), jnp.sum(targets >= 0)


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled form of a run on a mesh.

    Attributes:
        config, model_config: the run.
        eod_id: the id put before a row, that of end-of-document.
        mesh: the devices.
    """

    config: TrainConfig
    model_config: TransformerConfig
    eod_id: int
    mesh: Mesh

    def __post_init__(self):
        rows = self.mesh.shape["data"] * self.mesh.shape["fsdp"] * self.micro_batches
        if self.config.batch_size % rows:
            raise InputError(
                f"batch_size={self.config.batch_size} was given for a mesh that splits a batch {rows} ways "
                f"({dict(self.mesh.shape)}, micro_batches {self.micro_batches}); expected a multiple of {rows}."
            )
        if self.eod_id >= self.model_config.vocab_size:
            raise InputError(
                f"The model has vocab_size={self.model_config.vocab_size}, but the token store's ids go up to "
                f"{self.eod_id} (end of document); build the model with model_vocab_size of the store's codec."
            )

    @property
    def micro_batches(self) -> int:
        """Number of parts of a batch."""
        c = self.config
        if c.micro_batches or self.mesh.size > 1 or self.mesh.devices.flat[0].platform != "cpu":
            return c.micro_batches or 1
        # What a small part needs stays in the caches, and malloc keeps it: the arrays of a whole batch go back to the
        # system after each step, which clears every page of them again at the next.
        most = max(min(c.batch_size * c.seq_len // PART_TOKENS, c.batch_size // PART_ROWS), 1)
        return max(n for n in range(1, most + 1) if c.batch_size % n == 0)

    @property
    def penalty(self) -> BackSlash | None:
        """The penalty of the config."""
        return penalty(self.config.penalty)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of the config with its penalty; where the weights are `sparse(rule=rigl)`, it also moves their
        masks."""
        rule, form = optimizers.optimizer(self.config), representation(self.model_config.weights)
        if self.penalty:
            rule = penalised(rule, self.penalty, optimizers.schedule(self.config))
        form = getattr(form, "first", form)
        if getattr(form, "rule", None) != "rigl":
            return rule
        return rigl(rule, sparsity=form.s, every=form.every, n_steps=self.config.steps)

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of the state."""
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        return jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
            shapes,
            shardings(shapes, self.mesh),
        )

    @property
    def batch_sharding(self) -> NamedSharding:
        """Where the rows of a batch live."""
        return NamedSharding(self.mesh, P(BATCH))

    def init(self, params: Params | None = None) -> TrainState:
        """Returns the state before the first update, placed on the mesh: random parameters, or those given."""
        placement = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        # It runs once, and random numbers take long to compile with full optimization on CPU.
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        compiled = functools.partial(jax.jit, out_shardings=placement, compiler_options=options)
        if params is None:
            return compiled(self._init)(jax.random.key(self.config.seed))
        return compiled(self._start)(jax.device_put(jax.tree.map(np.asarray, params), placement.params))

    @property
    def step(self) -> Callable[[TrainState, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
        """`train_step` of this run as a plain function of (state, targets)."""
        return functools.partial(
            train_step,
            model=Transformer(self.model_config),
            optimizer=self.optimizer,
            eod_id=self.eod_id,
            z_loss=self.config.z_loss,
            micro_batches=self.micro_batches,
            seed=self.config.seed,
            n_steps=self.config.steps,
            penalty=self.penalty,
        )

    def lower(self) -> jax.stages.Lowered:
        """Returns `step` lowered for the mesh, whose devices need not be there; it reuses the memory of its state."""
        c = self.config
        placement = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        targets = jax.ShapeDtypeStruct((c.batch_size, c.seq_len), jnp.int32, sharding=self.batch_sharding)
        jitted = jax.jit(self.step, donate_argnums=0, out_shardings=(placement, None))
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            return jitted.lower(self.abstract_state, targets)

    def compile(self) -> jax.stages.Compiled:
        """Returns `step` compiled for the mesh."""
        return self.lower().compile()

    def _init(self, key):
        return self._start(Transformer(self.model_config).init(key, jnp.zeros((1, 1), jnp.int32))["params"])

    def _start(self, params):
        return TrainState(params, self.optimizer.init(params), jnp.zeros((), jnp.int32))
