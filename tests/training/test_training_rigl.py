"""RigL keeps as many weights, drops the smallest and takes those with the largest gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compressed_lm import models, training
from compressed_lm.errors import InputError
from compressed_lm.training.rigl import rigl
from compressed_lm.training.step import Program


def test_the_mask_moves_by_magnitude_and_gradient():
    """Mask updates computed by hand for 10 of 20 weights.

    At the second update 30 % * (1 + cos(pi / 3)) / 2 of the 10, which is 2, are dropped and 2 are added. The others get
    their update, dropped weights are 0, and no other parameter changes.
    """
    kernel = jnp.arange(1.0, 21.0).reshape(1, 4, 5) * jnp.where(jnp.arange(5) % 2, 1, -1)
    tree = lambda x: {"layers": {"up": {"kernel": x}}, "unembed": {"kernel": jnp.ones((2, 2))}}  # noqa: E731
    rule = rigl(optax.sgd(0.5), sparsity=0.5, every=1, n_steps=4)  # masks move up to step 3
    params, state = tree(kernel), rule.init(tree(kernel))
    gradient = tree(jnp.zeros((1, 4, 5)).at[0, 0, 3].set(-9).at[0, 1, 1].set(8).at[0, 3, 4].set(2.0))
    after = []
    for _ in range(2):
        updates, state = jax.jit(rule.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
        after.append(np.asarray(params["layers"]["up"]["kernel"]).reshape(-1))
    expected = np.where(np.arange(20) >= 10, np.asarray(kernel).reshape(-1), 0)
    expected[19] -= 1
    assert after[0].tolist() == expected.tolist()
    expected[[10, 11]] = 0  # the smallest of the kept
    expected[[3, 6]] = [4.5, -4]  # where gradients were largest, after an update by -lr * gradient
    expected[19] -= 1
    assert after[1].tolist() == expected.tolist()
    assert params["unembed"]["kernel"].tolist() == [[0.0] * 2] * 2


@pytest.fixture(scope="module")
def run(small_run):
    """The small run with masks that move at the updates 2 and 4 of 6."""
    model = dataclasses.replace(small_run.model, weights="sparse(s=0.75,rule=rigl,every=2)")
    return functools.partial(dataclasses.replace(small_run, model=model), steps=6, log_every=1)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """That run without a break, on one device."""
    return run(tmp_path_factory.mktemp("rigl") / "whole")


@pytest.mark.slow("trains several runs")
def test_a_model_trains_sparsely_on_a_mesh(run, whole, tmp_path):
    """Each kernel of the layers has the share of zeros, though its mask has moved; another mesh computes the same."""
    config, model = dataclasses.replace(run.func.config, steps=6), run.func.model
    first = jax.device_get(Program(config, model, 256, training.make_mesh((1, 1, 1))).init().params)
    kernel = np.asarray(whole.params["layers"]["mlp"]["up"]["kernel"])
    assert np.count_nonzero(kernel, axis=(1, 2)).tolist() == [kernel[0].size // 4] * len(kernel)
    started = np.abs(first["layers"]["mlp"]["up"]["kernel"])
    assert np.mean(kernel[started < np.quantile(started, 0.7)] != 0) > 0.01  # some that were small at first
    assert np.count_nonzero(whole.params["embed"]["embedding"]) == whole.params["embed"]["embedding"].size
    other = run(tmp_path / "mesh", mesh_shape=(2, 2, 2))
    np.testing.assert_allclose(other.loss_nats_per_token, whole.loss_nats_per_token, rtol=1e-3)


@pytest.mark.slow("trains several runs")
def test_a_run_resumes_to_the_bit(run, whole, same_bits, tmp_path, terminate_at):
    """6 updates with moving masks are those of 3, a checkpoint with the masks in it, and 3."""
    with pytest.raises(SystemExit):
        run(tmp_path / "cut", trackers=[terminate_at(2)])
    assert training.load_run(tmp_path / "cut").step == 3
    assert same_bits(run(tmp_path / "cut"), whole)


def test_other_rules_train_as_before_and_activations_have_no_masks():
    """Only rule=rigl wraps the optimizer, alone and before a format; for activations it is refused."""
    config = training.TrainConfig(steps=8)
    model = models.model_config("nano", 64)

    def masks(spec):
        program = Program(config, dataclasses.replace(model, weights=spec), 63, training.make_mesh((1, 1, 1)))
        return hasattr(program.abstract_state.opt_state, "masks")

    assert [masks(spec) for spec in ("dense", "sparse(s=0.5)", "sparse(s=0.5,rule=rigl)+int(b=4)")] == [0, 0, 1]
    with pytest.raises(InputError, match="activations change at every step"):
        dataclasses.replace(model, activations="sparse(s=0.5,rule=rigl)")
