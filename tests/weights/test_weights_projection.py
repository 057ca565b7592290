"""Merging of projected weights, and gradients through the merge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from compressed_lm.models.partitioning import RULES, pinned
from compressed_lm.training.mesh import make_mesh, shardings
from compressed_lm.weights.projection import merge, merge_cost, pull_back

PROJECTION_RULES = (
    (r"mlp/((up|gate)/kernel/p_out|down/kernel/p_in)", P("tensor", "fsdp")),
    (r"/p_(in|out)", P("fsdp", "tensor")),
)


def normal(*shape, seed=0):
    return np.random.default_rng([*shape, seed]).normal(size=shape).astype(np.float32)


def trees(*, d=16, d_c=8, f=32, f_c=16, layers=2, vocab=24):
    """Returns (projected, frozen) with every kind of node: two-sided, one-sided, low rank, plain arrays."""
    projected = {
        "embed": {"embedding": {"p_out": normal(d, d_c), "w_a": normal(vocab, d_c)}},
        "layers": {
            "attention": {
                "q": {"kernel": {"p_in": normal(layers, d, d_c), "w_a": normal(layers, d_c, f)}},
                "out": {"kernel": {"p_out": normal(layers, d, d_c)}},
                "v": {"kernel": {"left": normal(layers, d_c, 4), "right": normal(layers, 4, f)}},
            },
            "mlp": {
                "up": {
                    "kernel": {
                        "p_in": normal(layers, d, d_c),
                        "p_out": normal(layers, f, f_c),
                        "w_a": normal(layers, d_c, f_c),
                    }
                },
                "down": {"kernel": {"p_in": normal(layers, f, f_c), "p_out": normal(layers, d, d_c)}},
            },
            "mlp_norm": {"scale": normal(layers, d_c)},
        },
        "final_norm": {"scale": normal(d_c)},
    }
    frozen = {
        "embed": {"embedding": normal(vocab, d)},
        "layers": {
            "attention": {"q": {"kernel": normal(layers, d, f)}, "out": {"kernel": normal(layers, f, d)}},
            "mlp": {"up": {"kernel": normal(layers, d, f)}, "down": {"kernel": normal(layers, f, d)}},
        },
    }
    return projected, frozen


def oracle(projected, frozen):
    """Returns the merged tree from the formula, in float64."""
    double = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)  # noqa: E731
    p, w = double(projected), double(frozen)
    turn = lambda x: np.swapaxes(x, -1, -2)  # noqa: E731
    attention, mlp, base = p["layers"]["attention"], p["layers"]["mlp"], w["layers"]
    q, out, v = (attention[name]["kernel"] for name in ("q", "out", "v"))
    up, down = (mlp[name]["kernel"] for name in ("up", "down"))
    return {
        "embed": {
            "embedding": w["embed"]["embedding"] @ p["embed"]["embedding"]["p_out"] + p["embed"]["embedding"]["w_a"]
        },
        "layers": {
            "attention": {
                "q": {"kernel": turn(q["p_in"]) @ base["attention"]["q"]["kernel"] + q["w_a"]},
                "out": {"kernel": base["attention"]["out"]["kernel"] @ out["p_out"]},
                "v": {"kernel": v["left"] @ v["right"]},
            },
            "mlp": {
                "up": {"kernel": turn(up["p_in"]) @ base["mlp"]["up"]["kernel"] @ up["p_out"] + up["w_a"]},
                "down": {"kernel": turn(down["p_in"]) @ base["mlp"]["down"]["kernel"] @ down["p_out"]},
            },
            "mlp_norm": p["layers"]["mlp_norm"],
        },
        "final_norm": p["final_norm"],
    }


def same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), found, wanted)


def test_merge_is_the_formula():
    """Merged matrices are p_in^T W p_out + w_a for every kind of node, and plain arrays are unchanged."""
    projected, frozen = trees()
    merged = jax.jit(merge)(projected, frozen)
    same(merged, oracle(projected, frozen))
    assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype("float32")}


def test_two_stage_backward_is_autograd():
    """The pulled-back gradient equals autograd through the merge, and the gradient of the frozen base is zero."""
    projected, frozen = trees()
    loss = lambda params: sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(params))  # noqa: E731

    @jax.jit
    def two_stages(projected, frozen):
        return pull_back(projected, frozen, jax.grad(loss)(merge(projected, frozen)))

    whole = jax.jit(jax.grad(lambda projected, frozen: loss(merge(projected, frozen)), argnums=(0, 1)))
    wanted, of_base = whole(projected, frozen)
    same(two_stages(projected, frozen), wanted)
    assert all(not np.any(x) for x in jax.tree.leaves(of_base))


def test_a_tree_without_factors_is_itself():
    """A tree without factors (hard pruning, training from scratch) is merged unchanged and at no cost."""
    tree = {"final_norm": {"scale": normal(4)}, "layers": {"mlp_norm": {"scale": normal(2, 4)}}}
    gradient = jax.tree.map(lambda x: 2 * x, tree)
    assert merge(tree, {})["layers"]["mlp_norm"]["scale"] is tree["layers"]["mlp_norm"]["scale"]
    same(pull_back(tree, {}, gradient), gradient)
    cost = merge_cost(tree, {})
    assert (cost.forward, cost.pull_back, cost.frozen, cost.trainable) == (0, 0, 0, 12)


def test_merging_on_a_mesh_changes_nothing():
    """On 8 devices with data, fsdp and tensor axes, results equal those of one device and are sharded by the rules."""
    projected, frozen = trees()
    mesh, rules = make_mesh((2, 2, 2)), (*PROJECTION_RULES, *RULES)

    def both(projected, frozen):
        merged = merge(projected, frozen, pin=pinned)
        return merged, pull_back(projected, frozen, jax.tree.map(jnp.cos, merged), pin=pinned)

    wanted = jax.jit(both)(projected, frozen)
    places = shardings(projected, mesh, rules=rules)
    assert tuple(places["layers"]["mlp"]["up"]["kernel"]["p_in"].spec) == (None, "fsdp", "tensor")
    assert tuple(places["layers"]["mlp"]["up"]["kernel"]["p_out"].spec) == (None, "tensor", "fsdp")
    assert tuple(places["layers"]["mlp"]["down"]["kernel"]["p_in"].spec) == (None, "tensor", "fsdp")
    assert tuple(places["layers"]["mlp"]["up"]["kernel"]["w_a"].spec) == (None, "fsdp", "tensor")
    assert tuple(places["embed"]["embedding"]["p_out"].spec) == ("fsdp", "tensor")
    assert tuple(places["layers"]["attention"]["v"]["kernel"]["left"].spec) == (None, "fsdp", "tensor")
    with jax.set_mesh(mesh):
        args = jax.device_put((projected, frozen), (places, shardings(frozen, mesh, rules=rules)))
        found = jax.jit(both, out_shardings=(shardings(wanted[0], mesh, rules=rules), places))(*args)
    same(found, wanted)
    up = found[0]["layers"]["mlp"]["up"]["kernel"]
    assert {shard.data.shape for shard in up.addressable_shards} == {(2, 4, 8)}


@pytest.mark.parametrize(("d_c", "f_c"), [(96, 192), (112, 64)])
def test_costs_are_those_of_the_compiled_programs(d_c, f_c):
    """FLOPs equal XLA's count to 5 % for both orders of products (one layer: XLA counts the body of a loop once)."""
    trees_ = trees(d=128, d_c=d_c, f=384, f_c=f_c, layers=1, vocab=256)
    cost = merge_cost(*trees_)
    merged = jax.eval_shape(merge, *trees_)

    def flops(function, *args):
        analysis = jax.jit(function).lower(*args).compile().cost_analysis()
        return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]

    assert cost.forward == pytest.approx(flops(merge, *trees_), rel=0.05)
    assert cost.pull_back == pytest.approx(flops(pull_back, *trees_, merged), rel=0.05)

    def autograd(projected, frozen, gradient):
        merged, back = jax.vjp(lambda projected: merge(projected, frozen), projected)
        return merged, back(gradient)

    assert cost.forward + cost.backward == pytest.approx(flops(autograd, *trees_, merged), rel=0.05)


def test_costs_by_hand():
    """Costs of three layers of 6 x 10 to 2 x 5 equal the formulas of papers/004 section 4."""
    shapes = {"p_in": normal(3, 6, 2), "p_out": normal(3, 10, 5), "w_a": normal(3, 2, 5)}
    cost = merge_cost({"layers": {"kernel": shapes}}, {"layers": {"kernel": normal(3, 6, 10), "other": normal(3, 7)}})
    first, second = 2 * 6 * 10 * 2, 2 * 2 * 10 * 5  # p_in^T W, 240, then times p_out, 200; the other order needs 720
    assert cost.forward == 3 * (first + second)
    assert cost.backward == 3 * (first + 2 * second)
    assert cost.pull_back == 3 * (2 * first + 2 * second)
    assert (cost.trainable, cost.frozen, cost.merged) == (3 * (12 + 50 + 10), 3 * 60, 3 * 10)
