"""BackSlash does what its formulas say, in every arm; a run with it is as exact as one without."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from compressed_lm import models, training
from compressed_lm.errors import InputError
from compressed_lm.tracking import read_json_lines
from compressed_lm.tracking.progress import progress
from compressed_lm.training import penalties
from compressed_lm.training.penalties import BackSlash, penalised
from compressed_lm.training.run_dir import config_hash
from compressed_lm.training.step import Program
from compressed_lm.weights.gennorm import moment_ratio


def tree(kernel, **others):
    """Returns parameters with one stack of kernels [layers, N, M]; norms, tables and the output's matrix are ones."""
    layers = {"up": {"kernel": jnp.asarray(kernel, jnp.float32)}, "norm": {"scale": jnp.ones((len(kernel), 2))}}
    layers["bias"] = {"embedding": jnp.ones((len(kernel), 2, 2))}
    rest = {"embed": {"embedding": jnp.ones((3, 2))}, "unembed": {"kernel": jnp.ones((2, 3))}}
    return {"layers": layers, "final_norm": {"scale": jnp.ones(2)}} | rest | others


def kernel_of(params):
    return np.asarray(params["layers"]["up"]["kernel"])


@functools.cache
def compiled(rule, learning_rate, inner):
    """Returns the functions that give an optimizer's first state and its updates."""
    optimizer = penalised(inner or optax.sgd(learning_rate), rule, lambda step: jnp.float32(learning_rate))
    return jax.jit(optimizer.init), jax.jit(optimizer.update)


def after(rule, params, *, learning_rate=0.1, gradient=None, n_steps=1, inner=None):
    """Returns (parameters, state) after updates by plain gradient descent, by default on a gradient of 0."""
    init, update = compiled(rule, learning_rate, inner)
    state = init(params)
    gradient = jax.tree.map(jnp.zeros_like, params) if gradient is None else gradient
    for _ in range(n_steps):
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("none", "none"),
        (" backslash( rate=0.30 , arm=prox )", "backslash(rate=0.3)"),
        ("backslash(rate=2e3,arm=decoupled,eps=1,pool=1)", "backslash(rate=2000,arm=decoupled,pool=1)"),
        ("backslash(rate=1,arm=loss,eps=0.01,shape=0.5,pool=1)", "backslash(rate=1,arm=loss,shape=0.5)"),
        ("backslash(rate=1,shape=1.0,eps=3)", "l1(rate=1)"),
        ("l1(rate=1,arm=loss,every=5)", "l1(rate=1,arm=loss,every=5)"),
        ("backslash(rate=1,arm=loss,shape=1,eps=0.5)", "backslash(rate=1,arm=loss,shape=1,eps=0.5)"),
        ("backslash(rate=1,arm=decoupled,shape=2,every=7,embed=1)", "backslash(rate=1,arm=decoupled,shape=2,embed=1)"),
    ],
)
def test_equal_penalties_have_one_spelling(spec, canonical):
    """Options that are the default, or that have no effect, are left out; a config keeps the canonical spelling."""
    assert training.TrainConfig(steps=1, penalty=spec).penalty == canonical
    assert penalties.penalty(canonical) == penalties.penalty(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("backslsh(rate=1)", "no penalty 'backslsh'. Did you mean backslash"),
        ("backslash", "needs rate"),
        ("l1(rate=1,shape=2)", "penalty l1 has no option 'shape=2'"),
        ("backslash(rate=1,arm=proximal)", "arm=proximal .* Did you mean prox.* Valid: loss, decoupled, prox"),
        ("backslash(rate=-1)", "rate=-1.0 was given to a penalty; expected a number from 0"),
        ("backslash(rate=nan)", "rate=nan was given"),
        ("backslash(rate=1,shape=0.05)", "shape=0.05 .* expected 0, to estimate it, or a number from 0.1 to 3"),
        ("backslash(rate=1,every=0)", "every=0 .* from 1"),
        ("backslash(rate=1,eps=0)", "eps=0.0 was"),
    ],
)
def test_wrong_penalties_are_refused(spec, message):
    """A misspelling names what exists; a value out of range names the range."""
    with pytest.raises(InputError, match=message):
        training.TrainConfig(steps=1, penalty=spec)


def signs(n_ones, n=20):
    """Returns a matrix [4, 5] of so many +-1 and zeros, whose moment ratio is n / n_ones."""
    row = np.zeros(n)
    row[:n_ones] = np.where(np.arange(n_ones) % 2, 1, -1)
    return row.reshape(4, 5)


def test_shapes_are_those_of_each_layer_or_of_all():
    """Shapes by the ratio of moments, per layer or pooled.

    10 of 20 weights +-1 is ratio 2, shape 1; 6 of 20 is ratio 10/3, shape 1/2; together 16 of 40 is ratio 2.5. In the
    proximal arm shapes above 1 count as 1; a tensor of zeros gives finite numbers.
    """
    params = tree(np.stack([signs(10), 3 * signs(6), signs(20), np.zeros((4, 5))]))
    (shapes,), (scales,) = (list(part.values()) for part in jax.jit(BackSlash(1.0, "loss").fit)(params))
    np.testing.assert_allclose(shapes, [1, 0.5, 3, 3], rtol=1e-4)
    np.testing.assert_allclose(scales, [0.5**0.5, 3 * 0.3**0.5, 1, 1e-12], rtol=1e-5)
    (shapes,), _ = (list(part.values()) for part in jax.jit(BackSlash(1.0).fit)(params))
    np.testing.assert_allclose(shapes, [1, 0.5, 1, 1], rtol=1e-4)
    both = tree(np.stack([signs(10), signs(6)]))
    (shapes,), _ = (list(part.values()) for part in jax.jit(BackSlash(1.0, "loss", pool=1).fit)(both))
    np.testing.assert_allclose(moment_ratio(np.asarray(shapes, float)), [2.5, 2.5], rtol=1e-4)
    metrics = jax.jit(BackSlash(1.0).metrics)(both)
    np.testing.assert_allclose(metrics["weight_shape"], 0.75, rtol=1e-4)
    np.testing.assert_allclose(moment_ratio(float(metrics["weight_shape_pooled"])), 2.5, rtol=1e-4)
    np.testing.assert_allclose(metrics["zeros"], 24 / 40, rtol=1e-6)


def test_proximal_step_by_hand():
    """The proximal step is a soft threshold on the kernels of the layers.

    With root mean square 2 and shape 1 the threshold is rate * learning rate * 2, and smaller weights become exactly 0;
    with shape 1/2 the threshold falls with |w|.
    """
    w = [[[3.0, -0.25], [2.0, -(2.9375**0.5)]]]  # squares sum to 16
    params, _ = after(BackSlash(1.5, shape=1.0), tree(w))  # threshold 0.1 * 1.5 * 2 = 0.3
    np.testing.assert_allclose(kernel_of(params), [[[2.7, 0], [1.7, -(2.9375**0.5) + 0.3]]], rtol=1e-6)
    assert kernel_of(params)[0, 0, 1] == 0
    params, _ = after(BackSlash(1.5, shape=0.5, eps=0.125), tree(w))  # threshold 0.15 / sqrt(|w| / 2 + 0.125)
    np.testing.assert_allclose(kernel_of(params)[0, 0], [3 - 0.15 / 1.625**0.5, 0], rtol=1e-6)
    others = jax.tree.leaves({name: part for name, part in params.items() if name != "layers"})
    others += [params["layers"]["norm"]["scale"], params["layers"]["bias"]["embedding"]]
    assert all(np.all(np.asarray(leaf) == 1) for leaf in others)


def test_decoupled_step_is_the_authors():
    """The decoupled step is w - rate * v / n * sign(w) * (|w| + 1)**(v - 1), for any learning rate.

    v is the shape of the weights after the optimizer's update. 0 stays 0, and small weights step across 0 and back.
    """
    start = np.stack([signs(10), signs(6)])
    params, state = after(BackSlash(4.0, "decoupled", every=1), tree(start), learning_rate=7.0)
    expected = np.zeros((2, 4, 5))
    for layer, v in ((0, 1.0), (1, 0.5)):
        for i in range(4):
            for j in range(5):
                w = start[layer, i, j]
                expected[layer, i, j] = w - 4.0 * v / 40 * np.sign(w) * (abs(w) + 1) ** (v - 1)
    np.testing.assert_allclose(kernel_of(params), expected, rtol=1e-4)
    np.testing.assert_allclose(next(iter(state.shapes.values())), [1, 0.5], rtol=1e-4)
    chatter, _ = after(BackSlash(4.0, "decoupled", shape=1.0), tree(np.full((1, 2, 2), 0.25)))
    np.testing.assert_allclose(kernel_of(chatter), -0.75)


def objective(kernel, *, rate, shapes, scales, eps):
    """The written objective of arm=loss without D: rate times nats per weight, scales at their greatest likelihood."""
    total = 0.0
    for w, v, s in zip(kernel, shapes, scales, strict=True):
        total += w.size * jnp.log(jnp.mean((jnp.abs(w) + eps * s) ** v)) / v
    return rate * total / kernel.size


@pytest.mark.slow("trains several runs")
@pytest.mark.parametrize("shape", [0.0, 0.5, 2.0])
def test_loss_arm_is_the_gradient_of_the_objective(shape):
    """The optimizer gets its own gradient plus jax.grad of the objective, clipped together.

    The sum of gradient times weight equals the rate: one nat per weight for each factor of e.
    """
    kernel = jax.random.laplace(jax.random.key(0), (3, 16, 8)) * jnp.array([0.1, 1.0, 5.0])[:, None, None]
    params = tree(kernel)
    rule = BackSlash(0.7, "loss", shape=shape, eps=1e-4)
    shapes, scales = (next(iter(part.values())) for part in jax.jit(rule.fit)(params))
    wanted = jax.jit(jax.grad(objective))(kernel, rate=0.7, shapes=shapes, scales=scales, eps=1e-4)
    np.testing.assert_allclose(jnp.sum(wanted * kernel), 0.7, rtol=0.03)
    gradient = jax.tree.map(jnp.ones_like, params)
    moved, _ = after(rule, params, gradient=gradient, learning_rate=1.0)
    np.testing.assert_allclose(kernel - kernel_of(moved), 1 + wanted, rtol=1e-3, atol=1e-6)
    assert np.all(np.asarray(moved["embed"]["embedding"]) == 0)  # its own gradient alone
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    moved, _ = after(dataclasses.replace(rule, rate=1e6), params, gradient=gradient, inner=clipped)
    norm = optax.tree.norm(jax.tree.map(jnp.subtract, params, moved))
    np.testing.assert_allclose(norm, 1, rtol=1e-3)


@pytest.mark.parametrize("arm", ["loss", "prox", "decoupled"])
def test_l1_is_shape_1(arm):
    """`l1` is the penalty of that arm with the shape held at 1, whatever the weights look like."""
    l1, shaped = penalties.penalty(f"l1(rate=2,arm={arm})"), penalties.penalty(f"backslash(rate=2,arm={arm},shape=1)")
    params = tree(jax.random.normal(jax.random.key(0), (2, 8, 8)))
    a, b = (kernel_of(after(rule, params, n_steps=3)[0]) for rule in (l1, shaped))
    assert np.array_equal(a, b) and not np.array_equal(a, kernel_of(params))
    assert np.abs(a).mean() < np.abs(kernel_of(params)).mean()


def test_strength_follows_the_sum_of_learning_rates():
    """The proximal arm shrinks as much in 1 step as in 10 of a tenth, and the same share of weights twice as large."""
    kernel = jax.random.laplace(jax.random.key(0), (1, 32, 32))
    rule = BackSlash(1.0, shape=1.0, every=100)
    one, _ = after(rule, tree(kernel), learning_rate=0.3)
    ten, _ = after(rule, tree(kernel), learning_rate=0.03, n_steps=10)
    twice, _ = after(rule, tree(2 * kernel), learning_rate=0.3)
    np.testing.assert_allclose(kernel_of(ten), kernel_of(one), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(kernel_of(twice), 2 * kernel_of(one), rtol=1e-5, atol=1e-6)
    assert 0.2 < np.mean(kernel_of(one) == 0) < 0.5


def test_estimates_follow_the_schedule_and_embeddings_are_an_option():
    """Shapes and scales are of the updates 0, every, 2 every; embed=1 takes tables and the output's matrix too."""
    params = tree(jax.random.normal(jax.random.key(0), (2, 8, 8)), embed={"embedding": jnp.ones((3, 2))})
    states = [after(BackSlash(1.0, every=3), params, n_steps=n)[1].scales for n in range(1, 5)]
    changed = [not np.array_equal(*(next(iter(s.values())) for s in states[i : i + 2])) for i in range(3)]
    assert changed == [False, False, True]
    moved, state = after(BackSlash(1.0, embed=1), params)
    assert moved["embed"]["embedding"][0, 0] == moved["unembed"]["kernel"][0, 0] == pytest.approx(0.9)
    assert moved["layers"]["bias"]["embedding"].ravel()[0] == moved["final_norm"]["scale"][0] == 1
    assert len(state.shapes) == 3


@pytest.mark.slow("trains several runs")
@pytest.mark.parametrize(
    ("spec", "optimizer"),
    [
        ("backslash(rate=3,every=2)", "adamw"),
        pytest.param(
            "backslash(rate=30,arm=decoupled,every=2,pool=1,embed=1)",
            "muon",
            marks=pytest.mark.slow("trains several runs"),
        ),
    ],
)
def test_a_run_resumes_to_the_bit(spec, optimizer, small_run, same_bits, tmp_path, terminate_at):
    """6 updates are those of 3, a checkpoint between two estimates, and 3; metrics.jsonl has shapes and zeros."""
    run = functools.partial(small_run, steps=6, log_every=1, penalty=spec, optimizer=optimizer)
    whole = run(tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tmp_path / "cut", trackers=[terminate_at(2)])
    assert training.load_run(tmp_path / "cut").step == 3
    assert same_bits(run(tmp_path / "cut"), whole)
    records = [read_json_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    names = ("step", "loss_nats_per_token", "weight_shape", "weight_shape_pooled", "zeros")
    a, b = ([[record[name] for name in names] for record in part] for part in records)
    assert a == b and len(a) == 6 and 0.1 <= a[-1][2] <= 3
    assert training.load_run(tmp_path / "cut").train_config.penalty == spec


# One that changes the weights after the update, and one that changes the gradient, with one shape for all.
SHARDED = [
    "backslash(rate=3,every=2)",
    pytest.param("backslash(rate=0.3,arm=loss,pool=1)", marks=pytest.mark.slow("trains several runs")),
]


@pytest.mark.slow("trains several runs")
@pytest.mark.parametrize("spec", SHARDED)
def test_sharded_equals_unsharded(spec, small_run):
    """Eight devices on all three axes agree with one device, also in estimates and the share of zeros.

    A batch in micro-batches gets the penalty once.
    """
    config = training.TrainConfig(steps=8, batch_size=8, seq_len=16, learning_rate=1e-2, penalty=spec, warmup_steps=0)
    model = dataclasses.replace(small_run.model, n_layers=2)
    targets = jax.random.randint(jax.random.key(0), (8, 16), 0, 64)

    def trained(mesh_shape, **changes):
        program = Program(dataclasses.replace(config, **changes), model, 256, training.make_mesh(mesh_shape))
        state, step = program.init(), program.compile()
        for _ in range(4):
            state, metrics = step(state, jax.device_put(targets, program.batch_sharding))
        return jax.device_get((state.params, state.opt_state.shapes, state.opt_state.scales, metrics))

    params, shapes, scales, metrics = trained((1, 1, 1), micro_batches=1)
    other = trained((2, 2, 2), micro_batches=2)
    for a, b in zip(jax.tree.leaves(other[0]), jax.tree.leaves(params), strict=True):
        assert np.sqrt(np.mean((a - b) ** 2)) < 1e-3 * np.sqrt(np.mean(b**2))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3), other[1], shapes)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), other[2], scales)
    for name in ("loss_nats_per_token", "weight_shape", "weight_shape_pooled"):
        assert other[3][name] == pytest.approx(metrics[name], rel=1e-3)
    assert other[3]["zeros"] == pytest.approx(metrics["zeros"], abs=1e-3)
    assert (metrics["zeros"] > 0.003) == ("arm" not in spec)


@pytest.mark.slow("trains several runs")
def test_runs_of_before_go_on(small_run, tmp_path):
    """A record without the field is that of a run without penalty, its hash too; another penalty is another run."""
    small_run(tmp_path)
    file = tmp_path / "config.json"
    record = json.loads(file.read_text())
    assert record["train"].pop("penalty") == "none"
    assert config_hash(record) == config_hash(json.loads(file.read_text()))
    file.write_text(json.dumps(record))
    assert training.load_run(tmp_path).train_config.penalty == "none"
    assert small_run(tmp_path).step == 24
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"another configuration \(train.penalty 'none' -> 'l1\(rate=1\)'\)"):
        small_run(tmp_path, penalty="l1(rate=1)")


@pytest.mark.slow("trains several runs")
def test_it_works_within_rigl(small_run):
    """With masks that move the share of zeros is RigL's or more, and what is kept is penalised."""
    config = training.TrainConfig(steps=4, batch_size=2, seq_len=8, penalty="backslash(rate=1)")
    model = dataclasses.replace(small_run.model, weights="sparse(s=0.75,rule=rigl,every=2)")
    program = Program(config, model, 256, training.make_mesh((1, 1, 1)))
    step = jax.jit(program.step)
    state = program.init()
    for _ in range(3):
        state, metrics = step(state, jnp.arange(16).reshape(2, 8))
    assert 0.75 <= metrics["zeros"] < 0.9
    assert state.opt_state.inner.step == 3


@pytest.fixture(scope="module")
def trained(real_store, tmp_path_factory):
    """Returns a function: 100 steps on real text -> (last metrics, mean |w|, bits per weight at a step of 0.01)."""
    folder = tmp_path_factory.mktemp("runs")
    quiet = functools.partial(progress, console=Console(quiet=True))

    @functools.cache
    def trained(spec, d_model=32):
        config = training.TrainConfig(
            **dict(steps=100, batch_size=16, seq_len=64, learning_rate=5e-3, warmup_steps=20, penalty=spec)
        )
        model = models.model_config("nano", 264, position="rotary", d_model=d_model, d_ff=4 * d_model)
        out = folder / f"{len(list(folder.iterdir()))}"
        result = training.train(config, model, real_store, out=out, mesh_shape=(1, 1, 1), progress=quiet)
        kernels = [np.asarray(w) for w in BackSlash(0.0).select(result.params).values()]
        w = np.concatenate([kernel.ravel() for kernel in kernels])
        counts = np.unique(np.rint(w / 0.01), return_counts=True)[1] / w.size
        bits = -np.sum(counts * np.log2(counts))
        return read_json_lines(out / "metrics.jsonl")[-1], np.abs(w).mean(), bits

    return trained


@pytest.mark.slow("trains several runs")
@pytest.mark.parametrize(("arm", "rates"), [("prox", (4,)), ("loss", (1,)), ("decoupled", (60,))])
def test_a_higher_rate_gives_smaller_and_cheaper_weights(arm, rates, trained):
    """On real text mean |w| and the entropy at a fixed step fall with the rate; the proximal arm alone makes zeros."""
    runs = [trained("backslash(rate=0)"), *(trained(f"backslash(rate={rate},arm={arm})") for rate in rates)]
    sizes, bits = [size for _, size, _ in runs], [bits for *_, bits in runs]
    assert sizes == sorted(sizes, reverse=True) and bits == sorted(bits, reverse=True)
    assert bits[0] - bits[-1] > 1
    zeros = [record["zeros"] for record, *_ in runs]
    assert zeros == sorted(zeros) and (zeros[-1] > 0.1) == (arm == "prox")


@pytest.mark.slow("trains several runs")
def test_a_rate_means_the_same_at_twice_the_width(trained):
    """One rate saves the same bits per weight at widths 16 and 32, within a factor of 2.

    The wider model has four times the weights.
    """
    saved = [trained("backslash(rate=0)", d)[2] - trained("backslash(rate=1,arm=prox)", d)[2] for d in (16, 32)]
    assert min(saved) > 0.2 and max(saved) < 2 * min(saved), saved
