"""Schedules have their published shapes; each optimizer descends, and decays matrices only."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import training
from compressed_lm.errors import InputError
from compressed_lm.training import optimizers

BASE = training.TrainConfig(steps=100, learning_rate=2.0, warmup_steps=10)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 0.2, 4: 1.0, 9: 2.0, 50: 2.0, 99: 2.0}),
        ("cosine", {0: 0.2, 10: 2.0, 55: 1.1, 100: 0.2}),
        ("rsqrt", {0: 2 / 10**0.5, 10: 2 / 10**0.5, 40: 2 / 40**0.5, 90: 2 / 90**0.5}),
        ("wsd", {0: 0.2, 10: 2.0, 80: 2.0, 90: 1.0, 100: 0.0}),
    ],
)
def test_schedules(schedule, expected):
    """Linear warm-up to the highest rate, then the shape that the name says; rsqrt is T5's, level at first."""
    rate = optimizers.schedule(dataclasses.replace(BASE, schedule=schedule))
    np.testing.assert_allclose([rate(step) for step in expected], list(expected.values()), rtol=1e-5, atol=1e-6)


@pytest.mark.slow("trains several runs")
@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_each_optimizer_descends_and_decays_kernels_only(name):
    """From a gradient, every parameter moves against it; from none, only kernels shrink, by rate times decay."""
    params = {
        "embed": {"embedding": jnp.ones((6, 4))},
        "layers": {"attention": {"q": {"kernel": jnp.ones((2, 4, 6))}, "out": {"kernel": jnp.ones((2, 6, 4))}}},
        "final_norm": {"scale": jnp.ones(4)},
    }
    config = dataclasses.replace(
        BASE, optimizer=name, schedule="constant", warmup_steps=0, learning_rate=0.01, weight_decay=0.5
    )
    rule = optimizers.optimizer(dataclasses.replace(config, weight_decay=0.0))
    gradient = jax.tree.map(lambda x: jax.random.normal(jax.random.key(0), x.shape), params)
    updates, _ = jax.jit(rule.update)(gradient, rule.init(params), params)
    for update, g in zip(jax.tree.leaves(updates), jax.tree.leaves(gradient), strict=True):
        assert jnp.sum(update * g) < 0
        assert 1e-4 < jnp.sqrt(jnp.mean(update**2)) < 0.03  # about the learning rate for every rule
    rule = optimizers.optimizer(config)
    updates, _ = jax.jit(rule.update)(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    decay = jax.tree.map(lambda update: float(jnp.mean(update)), updates)
    assert decay["layers"]["attention"]["q"]["kernel"] == pytest.approx(-0.005)
    assert decay["embed"]["embedding"] == decay["final_norm"]["scale"] == 0


@pytest.mark.slow("trains several runs")
def test_adafactor_and_muon_treat_each_layer_as_a_matrix_of_its_own():
    """The update of a stack is the stack of the updates, factored moments and all, whatever the other layers hold."""
    rng = np.random.default_rng(0)
    first, second = (jnp.asarray(rng.normal(0, scale, (130, 140))) for scale in (0.1, 3.0))
    tree = lambda kernel: {"layers": {"mlp": {"up": {"kernel": kernel}}}, "embed": {"embedding": first}}  # noqa: E731
    for name in ("adafactor", "muon"):
        rule = optimizers.optimizer(dataclasses.replace(BASE, optimizer=name, grad_clip=0.0))

        def update(kernel, rule=rule):
            params = tree(kernel)
            updates, state = rule.update(jax.tree.map(jnp.sin, params), rule.init(params), params)
            return updates["layers"]["mlp"]["up"]["kernel"], state

        both, state = update(jnp.stack([first, second]))
        for i, alone in enumerate((first, second)):
            np.testing.assert_allclose(both[i], update(alone[None])[0][0], rtol=1e-4)
        if name == "adafactor":
            assert {(2, 130), (2, 140)} <= {leaf.shape for leaf in jax.tree.leaves(state)}


def test_unknown_names_list_the_valid_ones():
    """A misspelt optimizer or schedule is answered with the names there are."""
    with pytest.raises(InputError, match="optimizer='adam' was given; expected one of adamw, adafactor, muon"):
        optimizers.optimizer(dataclasses.replace(BASE, optimizer="adam"))
    with pytest.raises(InputError, match="schedule='linear' was given; expected one of cosine, wsd, constant, rsqrt"):
        optimizers.schedule(dataclasses.replace(BASE, schedule="linear"))
    with pytest.raises(InputError, match="batch_size=0 was given; expected a whole number from 1 to"):
        training.TrainConfig(steps=1, batch_size=0)
    with pytest.raises(InputError, match="learning_rate=-1 was given; expected a number from 0 on"):
        training.TrainConfig(steps=1, learning_rate=-1)
