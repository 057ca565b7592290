"""A run does not depend on how it is spread over devices, but for rounding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import training
from compressed_lm.training.mesh import shardings


def placement(name, shape, *, mesh_shape=(2, 2, 2)):
    """Returns the PartitionSpec that the rules give to a parameter, by its path and shape."""
    tree = jnp.zeros(shape)
    for key in reversed(name.split("/")):
        tree = {key: tree}
    return tuple(jax.tree.leaves(shardings(tree, training.make_mesh(mesh_shape)))[0].spec)


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("layers/attention/q/kernel", (2, 16, 16), (None, "fsdp", "tensor")),
        ("layers/attention/out/kernel", (2, 16, 16), (None, "tensor", "fsdp")),
        ("mu/layers/mlp/up/kernel", (2, 16, 32), (None, "fsdp", "tensor")),
        ("layers/mlp/down/kernel", (2, 33, 16), (None, None, "fsdp")),
        ("embed/embedding", (264, 16), ("tensor", "fsdp")),
        ("unembed/kernel", (16, 264), ("fsdp", "tensor")),
        ("final_norm/scale", (16,), ()),
        ("layers/attention_norm/scale", (2, 16), ()),
        ("v_row/layers/attention/out/kernel", (2, 16), ()),
    ],
)
def test_rules_place_each_parameter(name, shape, spec):
    """Matrices are split by fsdp and tensor, optimizer states beside them; what cannot be split is replicated."""
    assert placement(name, shape) == spec


@pytest.mark.slow("compiles steps for several meshes")
def test_meshes_give_the_same_loss(small_run, uninterrupted, tmp_path):
    """8 devices, split by data alone or in all three ways, follow 1 device within 1e-4 nats per token over a run."""
    for name, shape in (("data", (8, 1, 1)), ("all", (2, 2, 2))):
        result = small_run(tmp_path / name, mesh_shape=shape)
        assert result.loss_nats_per_token == pytest.approx(uninterrupted.loss_nats_per_token, abs=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), result.params, uninterrupted.params)
    up = result.params["layers"]["mlp"]["up"]["kernel"]
    assert {shard.data.shape for shard in up.addressable_shards} == {(1, 8, 16)}  # [1, D, F] = [1, 16, 32]


@pytest.mark.slow("compiles steps for several meshes")
def test_a_run_can_move_to_another_mesh(small_run, uninterrupted, tmp_path, terminate_at):
    """A checkpoint of 1 device resumes on 8 within the same tolerance."""
    with pytest.raises(SystemExit):
        small_run(tmp_path, log_every=1, trackers=[terminate_at(12)])
    result = small_run(tmp_path, mesh_shape=(2, 2, 2))
    assert result.loss_nats_per_token == pytest.approx(uninterrupted.loss_nats_per_token, abs=1e-4)


@pytest.mark.slow("compiles steps for several meshes")
@pytest.mark.parametrize("optimizer", ["adafactor", "muon"])
def test_every_optimizer_resumes_on_a_full_mesh(optimizer, small_run, same_bits, tmp_path, terminate_at):
    """Factored and orthogonalised states are split, saved and restored exactly too."""
    run = dataclasses.replace(small_run, config=dataclasses.replace(small_run.config, optimizer=optimizer, steps=12))
    whole = run(tmp_path / "whole", mesh_shape=(2, 2, 2))
    with pytest.raises(SystemExit):
        run(tmp_path / "cut", mesh_shape=(2, 2, 2), log_every=1, trackers=[terminate_at(5)])
    assert same_bits(run(tmp_path / "cut", mesh_shape=(2, 2, 2)), whole)
