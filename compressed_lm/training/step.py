"""Training and evaluation steps as pure functions, and the compiled program of a run."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from compressed_lm import weights
from compressed_lm.errors import InputError
from compressed_lm.models import Transformer, TransformerConfig, shift_right
from compressed_lm.models.partitioning import BATCH, pinned
from compressed_lm.training import optimizers
from compressed_lm.training.config import HOST_FIELDS, TrainConfig
from compressed_lm.training.durations import whole
from compressed_lm.training.mesh import shardings
from compressed_lm.training.micro_batches import summed_gradient
from compressed_lm.training.penalties import BackSlash, penalised, penalty
from compressed_lm.training.rigl import rigl

PART_TOKENS, PART_ROWS = 512, 2  # at least so many tokens and rows in a micro-batch on CPU
# On CPU at most what malloc keeps: larger arrays go back to the system, which clears each of their pages at next use.
EVAL_LOGIT_BYTES, EVAL_LOGIT_BYTES_CPU = 2**28, 2**25
Params = dict  # the tree in "params", as in models/transformer.py
Measured = TypeVar("Measured", bound=jax.Array | tuple[jax.Array, ...])


class TrainState(NamedTuple):
    """Training state.

    Attributes:
        params: trained parameters.
        opt_state: state of the optimizer.
        step: updates done, int32[].
        frozen: parameters of a larger model that the run projects or learns from; never updated.
    """

    params: Params
    opt_state: optax.OptState
    step: jax.Array
    frozen: Params | None = None


def token_nats(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (-log p(target), log Z), both float32[...] in nats; -log p is 0 for negative targets (padding).

    Args:
        logits: float32[..., V].
        targets: int32[...].
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum, because the gradient of a gather is a scatter into an array as large as the logits.
    ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    chosen = jnp.sum(jnp.where(ids == targets[..., None], logits, 0), axis=-1)
    return jnp.where(targets < 0, 0, log_z - chosen), log_z


def _inputs(targets, eod_id):
    return shift_right(jnp.where(targets < 0, eod_id, targets), eod_id)


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
    clip: optax.GradientTransformation | None = None,
    teacher: Transformer | None = None,
    distillation: float = 0.0,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns (state after one update, metrics).

    If the parameters are projections (`weights.projection`), the model's parameters are built from them once. Their
    gradient, summed over the micro-batches, is clipped by `clip` and pulled back (papers/004 section 4).

    Args:
        state: the state before the update.
        targets: int32[B, L]; negative for padding.
        model: the model.
        optimizer: the optimizer; it applies the penalty, if any.
        eod_id: the id put before a row.
        z_loss: weight of log(Z)^2 in the loss.
        micro_batches: parts of the batch whose gradients are summed one after the other.
        seed: of the noise of representations that use any.
        n_steps: length of the run, for representations that change during it.
        penalty: adds its metrics of the weights after the update.
        clip: clips the gradient of projected runs.
        teacher: a larger model with the frozen parameters.
        distillation: share of the loss that is the divergence KL(teacher || model), in nats per token.

    Returns:
        The new state and the metrics `loss_nats_per_token` (of the text alone, without z-loss, penalty and
        distillation) and `grad_norm` (before clipping, without the penalty).
    """
    n_tokens = jnp.maximum(jnp.sum(targets >= 0), 1)
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    progress = state.step / n_steps
    projected = weights.holds_factors(state.params)
    frozen = {} if state.frozen is None else state.frozen
    model_params = weights.merge(state.params, frozen, pin=pinned) if projected else state.params

    def loss_fn(params, targets, key, layers=None):
        logits = model.apply({"params": params}, _inputs(targets, eod_id), key=key, progress=progress, layers=layers)
        nats, log_z = token_nats(logits, targets)
        loss = jnp.sum(nats) / n_tokens
        goal = loss
        if teacher is not None:
            expected = jax.nn.log_softmax(teacher.apply({"params": frozen}, _inputs(targets, eod_id)))
            divergence = jnp.sum(jnp.exp(expected) * (expected - logits + log_z[..., None]), axis=-1)
            divergence = jnp.sum(jnp.where(targets >= 0, divergence, 0)) / n_tokens
            goal = (1 - distillation) * loss + distillation * divergence
        return goal + z_loss * jnp.sum(jnp.where(targets >= 0, log_z**2, 0)) / n_tokens, loss

    if micro_batches == 1:
        gradient, loss = jax.grad(loss_fn, has_aux=True)(model_params, targets, key)
    else:
        # Rows are interleaved, so that each part has rows of every device and no row moves between devices.
        parts = jnp.swapaxes(targets.reshape(-1, micro_batches, targets.shape[1]), 0, 1)
        keys = jax.random.split(key, micro_batches)
        mesh, c = jax.sharding.get_abstract_mesh(), model.config
        apart = not c.scan_layers and (mesh.empty or mesh.size == 1)
        gradient, loss = summed_gradient(loss_fn, model_params, (parts, keys), n_layers=c.n_layers if apart else 0)
    metrics = {"loss_nats_per_token": loss, "grad_norm": optax.tree.norm(gradient)}
    if projected:
        gradient, _ = clip.update(gradient, clip.init(model_params)) if clip else (gradient, None)
        gradient = weights.pull_back(state.params, frozen, gradient, pin=pinned)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= penalty.metrics(params) if penalty else {}
    return TrainState(params, opt_state, state.step + 1, state.frozen), metrics


def map_logits(
    measure: Callable[[jax.Array, jax.Array], Measured],
    params: Params,
    targets: jax.Array,
    *,
    model: Transformer,
    eod_id: int,
) -> Measured:
    """Returns `measure` of the logits and targets of each position, as arrays [B, L].

    Logits are computed for a few positions of all rows at a time: with a large vocabulary, the logits of a whole batch
    take many times the memory of everything else.

    Args:
        measure: function of logits float32[B, V] and targets int32[B] that returns one or several arrays [B].
        params: of the model.
        targets: int32[B, L]; negative for padding.
        model: the model.
        eod_id: the id put before a row.
    """

    def apply(x: jax.Array, method: str) -> jax.Array:
        # Flax annotates `apply` as if it might also return mutated variables.
        return cast(jax.Array, model.apply({"params": params}, x, method=method))

    x = apply(_inputs(targets, eod_id), "features")
    n_rows, length = targets.shape
    n_bytes = EVAL_LOGIT_BYTES_CPU if jax.default_backend() == "cpu" else EVAL_LOGIT_BYTES
    at_a_time = min(max(n_bytes // (4 * n_rows * model.config.vocab_size), 1), length)
    found = jax.lax.map(
        lambda position: measure(apply(position[0], "logits"), position[1]),
        (jnp.swapaxes(x, 0, 1), targets.T),
        batch_size=at_a_time,
    )
    return jax.tree.map(jnp.transpose, found)


def eval_nats(params: Params, targets: jax.Array, *, model: Transformer, eod_id: int) -> jax.Array:
    """Returns -log p in nats, float32[B, L], of the targets int32[B, L]; 0 for negative targets."""
    return map_logits(lambda logits, ids: token_nats(logits, ids)[0], params, targets, model=model, eod_id=eod_id)


def eval_step(params: Params, targets: jax.Array, *, model: Transformer, eod_id: int) -> tuple[jax.Array, jax.Array]:
    """Returns (total nats float32[], number int32[]) of the non-negative targets in int32[B, L]."""
    return jnp.sum(eval_nats(params, targets, model=model, eod_id=eod_id)), jnp.sum(targets >= 0)


@dataclasses.dataclass(frozen=True)
class Start:
    """Initial parameters of a run.

    Attributes:
        params: parameters of the run's model, or a projected tree over `frozen` (`weights.projection`); None for random
            ones.
        frozen: parameters of a larger model, not trained.
        frozen_config: config of that model, if it is the teacher (`TrainConfig.distillation`).
    """

    params: Params | None = None
    frozen: Params | None = None
    frozen_config: TransformerConfig | None = None


@dataclasses.dataclass(frozen=True)
class Program:
    """Training program of a run on a mesh.

    Attributes:
        config, model_config: the run.
        eod_id: id of end-of-document, put before a row.
        mesh: the devices.
        start: initial parameters, arrays or their shapes.

    Raises:
        InputError: the parts do not fit each other.
    """

    config: TrainConfig
    model_config: TransformerConfig
    eod_id: int
    mesh: Mesh
    start: Start = Start()

    def __post_init__(self) -> None:
        if self.config.distillation and not (self.start.frozen_config and self.start.frozen):
            raise InputError(
                f"distillation={self.config.distillation} was given, but there is no larger model to learn from; use "
                "it with `compressed-lm shrink`."
            )
        if self.projects and (self.penalty or self.model_config.weights != "dense"):
            raise InputError(
                f"penalty={self.config.penalty} and weights={self.model_config.weights} were given for a run that "
                "trains projections; expected none and dense. Use them to continue training from the merged model."
            )
        rows = self.mesh.shape["data"] * self.mesh.shape["fsdp"] * self.micro_batches
        if self.config.batch_size % rows:
            raise InputError(
                f"batch_size={self.config.batch_size} was given, but the mesh {dict(self.mesh.shape)} and "
                f"micro_batches={self.micro_batches} split a batch into {rows} parts; expected a multiple of {rows}."
            )
        if self.eod_id >= self.model_config.vocab_size:
            raise InputError(
                f"The model has vocab_size={self.model_config.vocab_size}, but the token store's ids go up to "
                f"{self.eod_id} (end of document); build the model with `model_vocab_size` of the store's codec."
            )

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches of a batch."""
        c = self.config
        if c.micro_batches or self.mesh.size > 1 or self.mesh.devices.flat[0].platform != "cpu":
            return c.micro_batches or 1
        # The arrays of a small part stay in the caches, and malloc keeps them. Those of a whole batch go back to the
        # system after each step, which clears each of their pages in the next step.
        most = max(min(c.batch_size * c.seq_len // PART_TOKENS, c.batch_size // PART_ROWS), 1)
        return max(n for n in range(1, most + 1) if c.batch_size % n == 0)

    @property
    def projects(self) -> bool:
        """Whether projections are trained."""
        return self.start.params is not None and weights.holds_factors(self.start.params)

    @property
    def penalty(self) -> BackSlash | None:
        """The penalty of the config, or None."""
        return penalty(self.config.penalty)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of the config with its penalty; for weights `sparse(rule=rigl)` it also updates the masks."""
        # The gradient of projections is clipped earlier, by the norm of the model's gradient as in other runs.
        config = dataclasses.replace(self.config, grad_clip=0.0) if self.projects else self.config
        rule, form = optimizers.optimizer(config), weights.representation(self.model_config.weights)
        if self.penalty:
            rule = penalised(rule, self.penalty, optimizers.schedule(self.config))
        first: Any = getattr(form, "first", form)
        if getattr(first, "rule", None) != "rigl":
            return rule
        return rigl(rule, sparsity=first.s, every=first.every, n_steps=whole(self.config.steps))

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of the state."""
        given = jax.eval_shape(lambda *trees: trees, self.start.params, self.start.frozen)
        shapes = jax.eval_shape(self._start, *given) if given[0] else jax.eval_shape(self._init, jax.random.key(0))
        return jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
            shapes,
            shardings(shapes, self.mesh),
        )

    @property
    def batch_sharding(self) -> NamedSharding:
        """Sharding of a batch."""
        return NamedSharding(self.mesh, P(BATCH))

    def init(self) -> TrainState:
        """Returns the state before the first update, placed on the mesh."""
        placement = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        frozen = self.place_frozen()
        if self.start.params is None:
            init = _initializer(self._shaping()) if self.start == Start() else _compiled_once(self._init, placement)
            return init(jax.random.key(self.config.seed))._replace(frozen=frozen)
        params = jax.device_put(jax.tree.map(np.asarray, self.start.params), placement.params)
        return _compiled_once(self._start, placement)(params, frozen)

    def place_frozen(self) -> Params | None:
        """Returns the frozen parameters on the mesh."""
        placement = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state.frozen)
        return jax.device_put(jax.tree.map(np.asarray, self.start.frozen), placement)

    def model_params(self, state: TrainState) -> Params:
        """Returns the parameters of the run's model, merged if the run trains projections."""
        if not self.projects:
            return state.params
        shapes = jax.eval_shape(weights.merge, state.params, state.frozen)
        merge = jax.jit(functools.partial(weights.merge, pin=pinned), out_shardings=shardings(shapes, self.mesh))
        with jax.set_mesh(self.mesh):
            return merge(state.params, state.frozen)

    @property
    def step(self) -> Callable[[TrainState, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
        """`train_step` of this run as a function of (state, targets)."""
        teacher = self.start.frozen_config
        return functools.partial(
            train_step,
            model=Transformer(self.model_config),
            optimizer=self.optimizer,
            eod_id=self.eod_id,
            z_loss=self.config.z_loss,
            micro_batches=self.micro_batches,
            seed=self.config.seed,
            n_steps=whole(self.config.steps),
            penalty=self.penalty,
            clip=optax.clip_by_global_norm(self.config.grad_clip) if self.config.grad_clip else None,
            teacher=Transformer(teacher) if teacher is not None and self.config.distillation else None,
            distillation=self.config.distillation,
        )

    def lower(self) -> jax.stages.Lowered:
        """Returns `step` lowered for the mesh, also for described devices; the state is donated."""
        c = self.config
        placement = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        targets = jax.ShapeDtypeStruct((c.batch_size, c.seq_len), jnp.int32, sharding=self.batch_sharding)
        jitted = jax.jit(self.step, donate_argnums=0, out_shardings=(placement, None))
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            return jitted.lower(self.abstract_state, targets)

    def compile(self) -> jax.stages.Compiled:
        """Returns `step` compiled for the mesh; runs in one process that differ only in data share it."""
        return self.lower().compile() if self.start != Start() else _compiled_step(self._shaping())

    def _shaping(self) -> "Program":
        """Returns this program without settings that only its host reads: equal ones compile to the same code."""
        defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(self.config) if f.name in HOST_FIELDS}
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **defaults))

    def _init(self, key):
        return self._start(Transformer(self.model_config).init(key, jnp.zeros((1, 1), jnp.int32))["params"])

    def _start(self, params, frozen=None):
        return TrainState(params, self.optimizer.init(params), jnp.zeros((), jnp.int32), frozen)


@functools.lru_cache(maxsize=8)
def _compiled_step(program: Program) -> jax.stages.Compiled:
    return program.lower().compile()


@functools.lru_cache(maxsize=8)
def _initializer(program: Program) -> Callable[[jax.Array], TrainState]:
    placement = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state)
    return _compiled_once(program._init, placement)


def _compiled_once(function: Callable, placement: TrainState) -> Callable:
    """Returns a function that runs once compiled without optimization: random numbers compile slowly on CPU."""
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, out_shardings=placement, compiler_options=options)
