"""Batched cramming gives each text its own result, and returns the vectors that were measured."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compressed_lm import weights
from compressed_lm.cramming import CramConfig, cram, read, write
from compressed_lm.cramming.config import RECIPES
from compressed_lm.cramming.frozen import score, teacher_forced
from compressed_lm.cramming.vectors import initial, initial_map
from compressed_lm.errors import InputError

SHORT = CramConfig(n_vectors=2, steps=120, learning_rate=0.05, patience=60)
SCHEDULED = dataclasses.replace(SHORT, steps=40, warmup_steps=3, schedule="cosine")


@pytest.fixture(scope="module")
def many(model, texts):
    """Returns twelve texts of three lengths, some of which fit, and their results with eight slots."""
    given = texts(*[2, 3, 4] * 4)
    return given, cram(model, given, SHORT, slots=8)


def same(a, b):
    """Returns whether two results are bit-identical."""
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))


@functools.partial(jax.jit, static_argnums=0)
def measure(config, params, z, tokens, target):
    """Returns the gradient of the mean loss of the first tokens, the loss of all, and the gaps of their logits."""

    def loss(z):
        nats, gaps = score(teacher_forced(config, params, z, tokens), tokens)
        return jnp.sum(jnp.where(jnp.arange(tokens.shape[1]) < target, nats[0], 0)) / target, (nats, gaps)

    gradient, (nats, gaps) = jax.grad(loss, has_aux=True)(z)
    return gradient, nats.sum(), gaps[0]


def one_at_a_time(model, ids, config, seed=0):
    """Returns the result of a plain loop over one text without padding: (best numbers, score, step, steps)."""
    z = jnp.asarray(initial(config, 32, std=model.embedding_std, text=ids, seed=seed))[None]
    optimizer = config.optimizer()
    state, tokens, best = optimizer.init(z), jnp.asarray(ids)[None], (-1, np.inf)
    target = len(ids) if config.method == "full" else min(config.grow, len(ids))

    for step in range(config.steps):
        gradient, nats, gaps = measure(model.config, model.params, z, tokens, target)
        right = np.asarray(gaps) > config.margin
        prefix = int(np.argmin(np.append(right, False)))
        found = int(right.sum()) if config.method == "full" else prefix
        if found > best[0]:
            improved = step
        if found > best[0] or (found == best[0] and nats < best[1]):
            best, kept, at = (found, float(nats)), np.asarray(z[0]), step
        if found == len(ids) or step - improved >= config.patience:
            break
        target = max(target, min(prefix + config.grow, len(ids)))
        update, state = optimizer.update(gradient, state, z)
        z = optax.apply_updates(z, update)
    return kept, best[0], at, step + 1


def test_each_text_stops_by_itself(many):
    """In one batch, texts stop when they fit, or when their steps or patience are exhausted."""
    given, found = many
    complete = [f.complete for f in found]
    assert 3 <= sum(complete) <= 11
    for ids, f in zip(given, found, strict=True):
        assert f.n_tokens == len(ids) and 0 <= f.best_step < f.steps <= 120
        assert f.best_step == f.steps - 1 if f.complete else f.steps == 120 or f.steps > 60
    assert len({f.steps for f in found}) > 5


def test_the_kept_vectors_are_those_that_were_measured(model, many):
    """The returned vectors have the reported score, and complete texts are generated.

    Vectors of one update later would not always have this score.
    """
    given, found = many
    vectors = [f.vectors for f in found]
    for ids, f, reading, written in zip(
        given, found, read(model, vectors, given), write(model, vectors, [len(ids) for ids in given]), strict=True
    ):
        assert reading.right.sum() == f.score
        assert (written.tolist() == ids.tolist()) == f.complete
        assert reading.nats.sum() >= f.lowest_nats - 1e-3


def test_neighbours_and_order_do_not_matter(model, many):
    """With the same number of slots, a text's result is bit-identical for any other texts and any order.

    It does not depend on whether the text waited for a free slot.
    """
    given, found = many
    order = np.random.default_rng(0).permutation(12)
    shuffled = cram(model, [given[i] for i in order], SHORT, slots=8)
    assert all(same(f, found[i]) for f, i in zip(shuffled, order, strict=True))
    others = cram(model, given[:2] + given[5:11], SHORT, slots=8)
    assert all(same(f, found[i]) for f, i in zip(others, [0, 1, *range(5, 11)], strict=True))


@pytest.mark.slow("trains vectors")
@pytest.mark.parametrize("method", ["full", "progressive"])
def test_batched_is_as_one_at_a_time(model, texts, method):
    """Every text ends as in a plain loop over it alone: same score and step, numbers equal up to rounding.

    The rounding is 1e-7 in a gradient. AdamW divides by the gradient's size, which is far above that here, so the
    numbers agree to 1e-3 after 40 steps of 0.05.
    """
    config = dataclasses.replace(SCHEDULED, method=method)
    given = texts(5, 5, seed=1)
    for ids, f in zip(given, cram(model, given, config), strict=True):
        numbers, best, at, steps = one_at_a_time(model, ids, config)
        assert (f.score, f.best_step, f.steps) == (best, at, steps)
        np.testing.assert_allclose(f.numbers, numbers, atol=1e-3)
        assert np.abs(f.numbers - initial(config, 32, std=model.embedding_std, text=ids, seed=0)).max() > 0.05


@pytest.mark.slow("trains vectors")
def test_cropped_cramming_has_the_same_scores(model, texts):
    """Computing only the target gives the scores of computing whole texts, where no prefix is exact beyond the target.

    The kept vectors are then the first with their score.
    """
    config = dataclasses.replace(SHORT, method="progressive", steps=100, patience=100)
    given = texts(4, 9, 12, seed=5)
    whole = cram(model, given, config)
    for ids, f, other in zip(given, cram(model, given, dataclasses.replace(config, crop=True)), whole, strict=True):
        assert (f.score, f.steps) == (other.score, other.steps) and f.best_step <= other.best_step
        assert f.lowest_nats == pytest.approx(read(model, [f.vectors], [ids])[0].nats.sum(), rel=1e-5)


@pytest.mark.parametrize("projection", ["learned", "shared"])
def test_learned_maps_restrict_the_vectors(model, texts, projection):
    """The vectors of a text lie in an affine space of M dimensions; before any update, so do those of all texts if the
    map is shared.
    """
    config = dataclasses.replace(SHORT, n_vectors=4, dimensions=2, projection=projection, steps=40)
    rank = lambda x: np.linalg.matrix_rank(x - x.mean(0), tol=1e-4)  # noqa: E731
    given = texts(3, 4, 4)
    found = cram(model, given, config)
    assert [rank(f.vectors) for f in found] == [2, 2, 2] and all(f.numbers.shape == (4, 32) for f in found)
    first = cram(model, given, dataclasses.replace(config, steps=1, init="uniform"))
    assert rank(np.concatenate([f.vectors for f in first])) == (2 if projection == "shared" else 8)


def test_a_learned_map_is_optimised(model, texts):
    """The map itself moves: with one number per vector, the direction of the vectors is not that of the start."""
    config = dataclasses.replace(SHORT, n_vectors=1, dimensions=1, projection="learned", steps=40)
    (ids,) = texts(4)
    (f,) = cram(model, [ids], config)
    start = initial_map(config, 32, text=ids, seed=0)
    numbers = initial(config, 32, std=model.embedding_std, text=ids, seed=0)
    first = numbers[0] @ start["w"] + start["b"]
    inside = np.stack([start["w"][0], start["b"]]).T
    (_, residual, *_), (_, none, *_) = (np.linalg.lstsq(inside, x, rcond=None) for x in (f.vectors[0], first))
    assert residual[0] > 0.01 and none[0] < 1e-9


def test_the_rate_ends_at_its_final_value():
    """Linear and cosine schedules end at `final_rate`; recipes are valid settings with the published values."""
    for schedule in ("linear", "cosine"):
        config = dataclasses.replace(SHORT, schedule=schedule, final_rate=0.02, weight_decay=0.0, b1=0.0, b2=0.0)
        update, x = config.optimizer(), jnp.ones(1)
        state = update.init(x)
        for _ in range(200):
            change, state = update.update(jnp.ones(1), state, x)
        assert -float(change[0]) == pytest.approx(0.02, rel=1e-4)
    assert CramConfig(**RECIPES["kuratov2025"]) == CramConfig()
    grown = CramConfig(**RECIPES["tarasov2026"])
    assert (grown.learning_rate, grown.b2, grown.weight_decay, grown.steps, grown.patience) == (
        0.1,
        0.9,
        0.01,
        10_000,
        1000,
    )


@pytest.mark.slow("trains vectors")
def test_a_progressive_score_is_the_longest_exact_prefix(model, texts):
    """Progressive cramming above capacity returns the vectors that generate its longest exact prefix."""
    given = texts(7, 8, seed=2)
    found = cram(model, given, dataclasses.replace(SCHEDULED, method="progressive"))
    for ids, f, written in zip(given, found, write(model, [f.vectors for f in found], [7, 8]), strict=True):
        assert 0 < f.score < len(ids)
        assert written[: f.score].tolist() == ids[: f.score].tolist() and written[f.score] != ids[f.score]


def test_restarts_differ_and_repeat(model, texts):
    """Another seed gives another solution; the same seed gives the same one."""
    (ids,) = texts(2)
    found = cram(model, [ids] * 8, SHORT, seeds=[0, 1, 2, 3] * 2)
    assert all(same(a, b) for a, b in zip(found[:4], found[4:], strict=True)) and all(f.complete for f in found)
    assert all(np.abs(found[0].vectors - other.vectors).max() > 0.1 for other in found[1:4])


@pytest.mark.slow("trains vectors")
def test_vectors_are_what_is_stored(model, texts):
    """The returned vectors equal the values of the stored bytes.

    The numbers are optimised through the format and through the projection.
    """
    config = dataclasses.replace(SHORT, dimensions=16, projection_seed=5, format="int(b=4)")
    signs = 2 * np.random.default_rng(5).integers(0, 2, (16, 32), np.int8) - 1
    for f in cram(model, texts(2, 2, seed=3), config):
        packed = weights.pack(f.numbers, "int(b=4)", axis=-1)
        assert packed.nbytes == 2 * (16 * 4 // 8 + 2) and f.complete
        assert not np.allclose(weights.unpack(packed), f.numbers, atol=1e-3)
        np.testing.assert_allclose(f.vectors, weights.unpack(packed) @ signs / 4, rtol=1e-5, atol=1e-6)


def test_progress_is_reported(model, texts):
    """Steps grow to the total, texts that stop early count with all their steps, and the accuracy is a share."""
    seen = []
    cram(model, texts(*[2] * 9), SHORT, slots=8, progress=seen.append)
    steps = [s.steps for s in seen]
    assert steps == sorted(steps) and steps[-1] == seen[-1].total_steps == 9 * 120 and seen[-1].finished == 9
    assert all(0 <= s.accuracy <= 1 for s in seen)


@pytest.mark.slow("trains vectors")
def test_the_last_slots_are_put_together(model, texts, monkeypatch):
    """When most texts have stopped, the others continue in fewer slots with the same results."""
    monkeypatch.setattr("compressed_lm.cramming.optimize.FEWEST_SLOTS", 1)
    given = texts(*[2] * 7, 7, seed=4)
    found = cram(model, given, SHORT)
    monkeypatch.setattr("compressed_lm.cramming.optimize.FEWEST_SLOTS", 8)
    wanted = cram(model, given, SHORT)
    assert [f.complete for f in found] == [True] * 7 + [False]
    assert all(same(a, b) for a, b in zip(found[:7], wanted, strict=False))
    assert (found[7].steps, found[7].score) == (wanted[7].steps, wanted[7].score) and found[7].steps > 60


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(method="half"), "method='half' was given; expected one of full, progressive"),
        (dict(n_vectors=0), "n_vectors=0 was given; expected a whole number from 1 to"),
        (dict(learning_rate=0.0), "learning_rate=0.0 was given; expected a number above 0"),
        (dict(b2=1.0), "b2=1.0 was given; expected a number from 0 on, below 1"),
        (dict(steps=10, warmup_steps=10), "warmup_steps=10 was given for steps=10"),
        (dict(final_rate=0.02), "final_rate=0.02 was given for learning_rate=0.01; expected at most"),
        (dict(crop=True), "crop was given with method='full'.*use it with method='progressive'"),
        (dict(projection="learned"), "projection='learned' was given with dimensions=0"),
        (dict(projection="shared", dimensions=4, format="int(b=4)"), "and format=int.*; expected at least one"),
        (dict(format="noise(gmse=0.1)"), "noise.* cannot be stored"),
        (dict(format="int(b=4,rule=lsq)"), "expected one without learned scales"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    """The message contains the setting, the given and the expected value."""
    with pytest.raises(InputError, match=message):
        CramConfig(**bad)


def test_a_seed_for_each_text(model, texts):
    """A wrong number of seeds raises an error."""
    with pytest.raises(InputError, match="1 seeds and slots=32 were given for 2 texts; expected one seed"):
        cram(model, texts(2, 3), SHORT, seeds=[0])
