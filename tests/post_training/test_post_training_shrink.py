"""A run becomes a smaller run: trained projections and what they are compared with, killed or not, split or not."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest

from compressed_lm import models, training, weights
from compressed_lm.dry_run import hlo
from compressed_lm.dry_run.program import dry_run
from compressed_lm.errors import InputError
from compressed_lm.models import Transformer
from compressed_lm.post_training import shrink as shrinking
from compressed_lm.post_training.entropy_code import pack_run
from compressed_lm.post_training.huggingface import export_run
from compressed_lm.post_training.quantize import quantize_run
from compressed_lm.post_training.shrink import Shrink, shapes_of, shrink_run, start_of

KEEP = dict(keep=0.5, importance="magnitude", multiple=4)
MODEL = models.TransformerConfig(vocab_size=264, d_model=64, n_layers=3, n_heads=2, d_head=32, d_ff=128)


@pytest.fixture(scope="module")
def base(uninterrupted, small_run, tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("shrinking") / "base"
    small_run(out, steps=4)
    return out


@pytest.fixture
def shrunk(base, small_run, tmp_path):
    """Shrinks the finished run into a folder; keywords are of `Shrink` and of the training."""

    def shrink(out=tmp_path / "small", *, mesh_shape=(1, 1, 1), trackers=(), steps=4, **how):
        training_settings = {name: how.pop(name) for name in ("distillation", "learning_rate") if name in how}
        config = dataclasses.replace(small_run.config, steps=steps, **training_settings)
        settings = dict(mesh_shape=mesh_shape, trackers=trackers, compilation_cache=small_run.compilation_cache)
        return shrink_run(base, small_run.store, Shrink(**KEEP | how), config, out=out, **settings)

    return shrink


def params_of(config, seed=0):
    return Transformer(config).init(jax.random.key(seed), np.zeros((1, 1), np.int32))["params"]


def program(method, *, mesh=(1, 1, 1), **settings):
    """A run that shrinks random parameters of MODEL."""
    config = training.TrainConfig(steps=10, batch_size=16, seq_len=32, **settings)
    shrink, params = Shrink(keep=0.5, method=method, importance="index"), params_of(MODEL)
    small, _ = shapes_of(params, MODEL, shrink, config)
    kept = models.select(models.index_scores(MODEL), d_model=small.d_model, d_ff=small.d_ff)
    start = start_of(params, MODEL, shrink, config, shrinking.Kept(kept))
    return training.Program(config, small, 256, training.make_mesh(mesh), start)


def targets(program, n=3):
    keys = jax.random.split(jax.random.key(1), n)
    return [jax.device_put(jax.random.randint(k, (16, 32), 0, 256), program.batch_sharding) for k in keys]


def dot_flops(text):
    """FLOPs of the products of matrices in the text of a compiled program."""
    module, total = hlo.parse(text), 0
    for name, op, runs in module.executed():
        if op.opcode == "dot":
            left = module.computations[name][op.operands[0]].shapes[0].dims
            axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.attributes)[1].split(",")
            total += runs * 2 * math.prod(op.shapes[0].dims) * math.prod(left[int(i)] for i in axes)
    return total


@pytest.mark.slow("trains models before and after")
@pytest.mark.parametrize("method", ["projected", "low_rank"])
def test_every_method_ends_in_a_plain_run(base, shrunk, small_run, method, tmp_path):
    """The merged model opens, packs and quantises like any run.

    It has the small shape and the requested share of parameters.
    """
    found = shrunk(method=method)
    run, large = training.load_run(tmp_path / "small", store=small_run.store), training.load_run(base)
    assert run.model_config == found.model_config and run.model_config.n_heads == large.model_config.n_heads
    assert (run.model_config.d_model < large.model_config.d_model) == (method != "low_rank")
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    kept = found.trainable if method == "low_rank" else size(run.params)
    assert kept / size(large.params) == pytest.approx(found.kept) == pytest.approx(0.5, abs=0.1)
    assert found.frozen == (size(large.params) if method.startswith("projected") else 0)
    assert run.step == 4 and run.loss_nats_per_token == found.loss_nats_per_token
    if method == "projected":
        quantize_run(tmp_path / "small", "int(b=4)", out=tmp_path / "int4")
        pack_run(tmp_path / "small", step="0.25std", coder="range", out=tmp_path / "small.clb")


@pytest.mark.slow("trains models before and after")
def test_training_begins_at_the_hard_pruned_model():
    """Projections, with w_a or without, over the frozen base or over noise, begin as the weights of hard pruning."""
    starts = [program(method).start for method in ("projected", "projected(w_a=0)", "projected(base=random)", "pruned")]
    merged = [weights.merge(start.params, start.frozen or {}) for start in starts]
    for tree in merged[:-1]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), tree, merged[-1])


@pytest.mark.slow("trains models before and after")
def test_svd_unties_a_model_and_loses_nothing(shrunk, base, monkeypatch, tmp_path):
    """Without pruning and training, a model with tied embeddings becomes an untied run with the same logits.

    The run opens, is exported as untied, and reports the number of parameters of its output layer.
    """
    run = training.load_run(base)
    rng = np.random.default_rng(0)
    tied = {name: part for name, part in run.params.items() if name != "unembed"}
    tied["final_norm"] = {"scale": np.exp(0.3 * rng.normal(size=run.model_config.d_model)).astype(np.float32)}
    config = dataclasses.replace(run.model_config, tie_embeddings=True, position="rotary")
    tied["layers"]["attention"].pop("relative_bias", None)
    large = dataclasses.replace(run, params=tied, model_config=config)
    with monkeypatch.context() as patched:
        patched.setattr(shrinking, "load_run", lambda directory, **_: large)
        found = shrunk(method="pruned(start=svd)", keep=1, learning_rate=0.0, steps=2)
    small = training.load_run(tmp_path / "small")
    assert found.untied == config.vocab_size * config.d_model > 0
    assert found.kept == pytest.approx(1 + found.untied / models.count_params(config).total)
    tokens = rng.integers(0, 256, (2, 12))
    ours, theirs = (Transformer(r.model_config).apply({"params": r.params}, tokens) for r in (small, large))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    written = export_run(tmp_path / "small", out=tmp_path / "hf")
    assert written["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(norm="layer"), "norm=layer, which subtracts a mean.*Use start=one_hot"),
        (dict(activations="int(b=8)"), r"activations=int\(b=8\), which another basis rounds.*Use start=one_hot"),
    ],
)
def test_svd_is_refused_where_another_basis_computes_something_else(settings, message):
    """The shape is refused, before anything is chosen or written."""
    with pytest.raises(InputError, match=message):
        shrinking.shape(dataclasses.replace(MODEL, **settings), Shrink(0.5, "projected(start=svd)"))


@pytest.mark.slow("trains models before and after")
def test_the_frozen_model_has_no_moments_and_stays():
    """The optimizer holds two numbers for each that is trained, and none for the frozen ones, which no step changes."""
    run = program("projected", weight_decay=0.1)
    state = run.init()
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert 0 <= size(state.opt_state) - 2 * size(state.params) < 5
    before = jax.device_get((state.params, state.frozen))
    state, _ = run.compile()(state, targets(run)[0])
    after = jax.device_get((state.params, state.frozen))
    jax.tree.map(np.testing.assert_array_equal, after[1], before[1])
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), after[0], before[0])
    assert all(jax.tree.leaves(moved))


@pytest.mark.slow("trains models before and after")
def test_split_projections_train_as_whole_ones():
    """After three updates the merged parameters on a mesh 2,2,2 are those on one device."""
    merged = []
    for mesh in ((1, 1, 1), (2, 2, 2)):
        run = program("projected", mesh=mesh)
        state, step = run.init(), run.compile()
        for batch in targets(run):
            state, _ = step(state, batch)
        merged.append(jax.device_get(run.model_params(state)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *merged)


@pytest.mark.slow("trains models before and after")
def test_flops_of_the_compiled_program_are_those_of_the_formula():
    """The FLOPs of projections in the compiled and the traced step equal the costs of merge and pull_back.

    The whole step equals the formula, with attention as it is computed, within 5 %.
    """
    run, pruned = program("projected"), program("pruned")
    found = dry_run(run.config, run.model_config, eod_id=256, mesh=run.mesh, start=run.start)
    programs = [dot_flops(p.compile().as_text()) for p in (run, pruned)]
    assert programs[0] - programs[1] == found.projection_flops > 0
    assert programs[0] == found.executed_flops
    c, tokens = found.model_config, found.tokens_per_step
    masked = 3 * 2 * c.n_layers * c.n_heads * c.d_head * 32  # above the diagonal, computed all the same
    formula = (found.training_flops + masked) * tokens + found.projection_flops
    assert programs[0] == pytest.approx(formula, rel=0.05)
    assert (found.trainable, found.frozen) == (
        sum(x.size for x in jax.tree.leaves(run.start.params)),
        models.count_params(MODEL).total,
    )
    assert found.memory.frozen == 4 * found.frozen and found.memory.params == 4 * found.trainable
    assert found.memory.optimizer == pytest.approx(8 * found.trainable, rel=1e-3)


@pytest.mark.slow("trains models before and after")
def test_a_killed_shrink_goes_on_bit_for_bit(shrunk, terminate_at, tmp_path):
    """Stopped in the middle and started again, it ends in the same weights; the selection is read, not made again."""
    whole = shrunk(tmp_path / "whole", steps=12, importance="activations", calibration=4)
    with pytest.raises(SystemExit):
        shrunk(steps=12, importance="activations", calibration=4, trackers=[terminate_at(8)])
    with pytest.raises(InputError, match="larger model"):
        training.load_run(tmp_path / "small" / "training")
    before = (tmp_path / "small" / "selection.npz").stat().st_mtime_ns
    assert shrunk(steps=12, importance="activations", calibration=4) == whole
    assert (tmp_path / "small" / "selection.npz").stat().st_mtime_ns == before
    files = [(tmp_path / name / "weights.clw").read_bytes() for name in ("small", "whole")]
    assert files[0] == files[1]
    with pytest.raises(InputError, match="other settings"):
        shrunk(steps=12, importance="activations", calibration=4, keep=0.4)


@pytest.mark.slow("trains models before and after")
def test_a_model_learns_nothing_from_itself():
    """Distilled from its own copy, a model has no divergence and no gradient, and the text's loss is reported."""
    params = params_of(MODEL)
    config = training.TrainConfig(steps=10, batch_size=16, seq_len=32, distillation=1.0, z_loss=0.0)
    start = training.Start(params, params, MODEL)
    run = training.Program(config, MODEL, 256, training.make_mesh((1, 1, 1)), start)
    _, metrics = run.compile()(run.init(), targets(run)[0])
    assert metrics["grad_norm"] < 1e-6 and metrics["loss_nats_per_token"] > 5


@pytest.mark.slow("trains models before and after")
def test_distillation_pulls_towards_the_teacher():
    """With the divergence as its whole loss a pruned model comes closer to the large one than where it began."""
    run, batch = program("pruned", distillation=1.0, learning_rate=1e-2, z_loss=0.0, warmup_steps=0), None
    state, step = run.init(), run.compile()
    teacher, student = Transformer(MODEL), Transformer(run.model_config)

    def divergence(state):
        inputs = models.shift_right(batch, 256)
        p, q = (
            jax.nn.log_softmax(m.apply({"params": w}, inputs))
            for m, w in ((teacher, state.frozen), (student, state.params))
        )
        return float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))

    batch = targets(run)[0]
    before = divergence(state)
    for _ in range(10):
        state, _ = step(state, batch)
    assert divergence(state) < 0.7 * before


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (dict(method="projcted"), "Did you mean projected"),
        (dict(method="projected(start=pca)"), "expected one_hot, svd"),
        (dict(method="projected(w_a=0,base=random)"), "expected w_a=1"),
        (dict(importance="luck"), "expected one of activations"),
        (dict(calibration=0), "calibration=0"),
        (dict(keep=1.5), "keep=1.5"),
        (dict(keep=0.01), "narrowest"),
        (dict(method="projected(base=random)", distillation=0.5), "nothing to teach"),
    ],
)
def test_what_cannot_be_shrunk_so_is_refused(shrunk, how, message):
    """Each wrong setting is refused with the expected values, before anything is trained."""
    with pytest.raises(InputError, match=message):
        shrunk(**how)


def test_a_run_in_a_format_is_refused(shrunk, base, monkeypatch):
    """Weights that are trained in a number format have to be packed first; the message gives the command."""
    run = training.load_run(base)
    run = dataclasses.replace(run, model_config=dataclasses.replace(run.model_config, weights="int(b=4)"))
    monkeypatch.setattr(shrinking, "load_run", lambda directory, **_: run)
    with pytest.raises(InputError, match="compressed-lm quantize"):
        shrunk()


def test_another_run_is_not_overwritten(base, small_run):
    """A folder that holds a run of another kind is refused."""
    with pytest.raises(InputError, match="not made by shrinking"):
        shrink_run(base, small_run.store, Shrink(0.5, "scratch"), small_run.config, out=base)


@pytest.mark.slow("compiles a model of factors")
def test_factors_have_a_formats_place_in_no_run():
    """Projections of a penalised run are refused: the penalty would fall on projections, not on weights."""
    with pytest.raises(InputError, match="trains projections"):
        program("projected", penalty="backslash(rate=1)")
    assert weights.holds_factors(program("projected").start.params)
