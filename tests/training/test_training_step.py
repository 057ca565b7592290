"""The loss is the cross entropy it says, in nats, of the tokens that count."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import models, training
from compressed_lm.training import step
from compressed_lm.training.micro_batches import summed_gradient


def test_token_nats_of_known_probabilities():
    """-log p in nats for literal probabilities, 0 for padding, and log Z of unnormalised logits."""
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1.0, 1.0, 2.0]]]))
    nats, log_z = training.token_nats(logits, jnp.array([[0, 2, -1]]))
    np.testing.assert_allclose(nats, [[np.log(2), -np.log(0.8), 0]], atol=1e-6)
    np.testing.assert_allclose(log_z, [[0, 0, np.log(4)]], atol=1e-6)


@pytest.fixture(scope="module")
def program(small_run):
    return training.Program(small_run.config, small_run.model, 256, training.make_mesh((1, 1, 1)))


@pytest.fixture(scope="module")
def state(program):
    return program.init()


@pytest.mark.slow("trains several runs")
def test_evaluation_counts_each_real_target_once(program, state):
    """Padded targets change neither the sum nor the count, and the sum is that of the model's own log-probabilities."""
    params = state.params
    model = models.Transformer(program.model_config)
    evaluate = jax.jit(lambda p, t: training.eval_step(p, t, model=model, eod_id=256))
    targets = jnp.array([[5, 6, 7, 256], [1, 2, 3, 4]])
    nats, count = evaluate(params, targets)
    log_p = jax.nn.log_softmax(jax.jit(model.apply)({"params": params}, jnp.array([[256, 5, 6, 7], [256, 1, 2, 3]])))
    np.testing.assert_allclose(nats, -np.take_along_axis(log_p, targets[..., None], -1).sum(), rtol=1e-5)
    assert count == 8
    first, n_first = evaluate(params, targets[:1])
    padded, n_padded = evaluate(params, jnp.array([[5, 6, 7, 256], [-1, -1, -1, -1]]))
    np.testing.assert_allclose(padded, first, rtol=1e-6)
    assert n_padded == n_first == 4


@pytest.mark.slow("trains several runs")
def test_evaluation_makes_logits_in_parts_within_a_bound(program, monkeypatch):
    """A large vocabulary's logits never lie in memory whole, and parts that do not divide a row change no nats."""
    config = dataclasses.replace(program.model_config, vocab_size=8_000)
    model = models.Transformer(config)
    targets = jnp.arange(4 * 50).reshape(4, 50).at[2, 40:].set(-1)
    params = jax.jit(model.init)(jax.random.key(0), targets)["params"]
    nats, used = {}, {}
    for n_places in (50, 7):
        monkeypatch.setattr(step, "EVAL_LOGIT_BYTES_CPU", n_places * 4 * 8_000 * 4)
        compiled = jax.jit(functools.partial(step.eval_nats, model=model, eod_id=256)).lower(params, targets).compile()
        nats[n_places], used[n_places] = compiled(params, targets), compiled.memory_analysis().temp_size_in_bytes
    np.testing.assert_allclose(nats[7], nats[50], rtol=1e-5)
    assert (nats[7] == 0).sum() == 10
    assert used[7] < 0.3 * used[50]


def test_z_loss_pulls_log_z_to_zero_and_is_not_reported(program, state, small_run):
    """The reported loss is the plain cross entropy; with a large z-loss the gradient differs from that without."""
    model = models.Transformer(program.model_config)
    targets = jnp.arange(128).reshape(8, 16)
    optimizer = training.optimizers.optimizer(small_run.config)
    step = jax.jit(lambda s, t, z: training.train_step(s, t, model=model, optimizer=optimizer, eod_id=256, z_loss=z)[1])
    plain, with_z = step(state, targets, 0.0), step(state, targets, 1.0)
    nats, count = jax.jit(lambda p, t: training.eval_step(p, t, model=model, eod_id=256))(state.params, targets)
    np.testing.assert_allclose(plain["loss_nats_per_token"], nats / count, rtol=1e-5)
    assert plain["loss_nats_per_token"] == with_z["loss_nats_per_token"]
    assert abs(plain["grad_norm"] - with_z["grad_norm"]) > 0.1


def test_initial_parameters_do_not_depend_on_the_mesh(program, state):
    """A seed names the same model on every mesh."""
    other = training.Program(program.config, program.model_config, 256, training.make_mesh((2, 2, 2))).init()
    jax.tree.map(np.testing.assert_array_equal, state.params, other.params)


@pytest.mark.slow("trains several runs")
def test_a_batch_in_parts_is_the_whole_batch(program, state):
    """Micro-batches change an update by rounding only, also where some hold fewer targets than others."""
    targets = jnp.arange(128).reshape(8, 16).at[2, 3:].set(-1)
    updated = {}
    for parts in (1, 4):
        config = dataclasses.replace(program.config, micro_batches=parts)
        updated[parts] = jax.jit(dataclasses.replace(program, config=config).step)(state, targets)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), updated[4], updated[1])


def test_layers_apart_give_the_gradient_of_the_stack(program, state):
    """The gradient with layers taken apart, and transposed where they have more inputs than outputs, is the same."""
    config = dataclasses.replace(program.model_config, scan_layers=False)
    model, parts = models.Transformer(config), jnp.arange(128).reshape(4, 2, 16)

    def loss_fn(params, targets, layers=None):
        logits = model.apply({"params": params}, models.shift_right(targets, 256), layers=layers)
        loss = jnp.mean(training.token_nats(logits, targets)[0])
        return loss, loss

    shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(state.params["layers"]) if leaf.ndim == 3]
    assert len({n_inputs > n_outputs for n_inputs, n_outputs in shapes}) == 2
    found = [
        jax.jit(functools.partial(summed_gradient, loss_fn, n_layers=n))(state.params, (parts,))
        for n in (0, config.n_layers)
    ]
    assert jax.tree.structure(found[0]) == jax.tree.structure(found[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *found)


@pytest.mark.parametrize(
    ("micro_batches", "batch_size", "seq_len", "n_devices", "parts"),
    [
        (0, 32, 128, 1, 8),
        (0, 4, 512, 1, 2),
        (0, 6, 256, 1, 3),
        (0, 7, 128, 1, 1),
        (0, 64, 128, 8, 1),
        (4, 64, 16, 8, 4),
    ],
)
def test_parts_of_a_batch(program, micro_batches, batch_size, seq_len, n_devices, parts):
    """Left to itself, one CPU device takes at least 512 tokens and two rows at a time, and several take all."""
    changes = dict(micro_batches=micro_batches, batch_size=batch_size, seq_len=seq_len)
    config = dataclasses.replace(program.config, **changes)
    mesh = training.make_mesh((n_devices, 1, 1))
    assert training.Program(config, program.model_config, 256, mesh).micro_batches == parts
