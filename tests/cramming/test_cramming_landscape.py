"""Path between two solutions of one text."""

import numpy as np
import pytest

from compressed_lm.cramming import landscape, read


def test_a_barrier_is_what_the_loss_has_above_the_line():
    """Losses 1, 5, 3: the line has 2 in the middle, so the barrier is 3; without a maximum it is 0."""
    shares = np.array([0, 0.5, 1])
    bump = landscape.Path(1.0, 0.0, shares, np.array([1.0, 5.0, 3.0]), np.array([1.0, 0.5, 1.0]))
    assert bump.barrier_nats == 3 and not bump.connected
    flat = landscape.Path(1.0, 0.0, shares, np.array([1.0, 1.5, 3.0]), np.array([1.0, 1.0, 1.0]))
    assert flat.barrier_nats == 0 and flat.connected


def test_the_ends_are_the_solutions(model, texts):
    """Distance and angle are those of the vectors; losses and accuracies are those of the vectors on the line.

    The path from a solution to itself has length 0.
    """
    (ids,), rng = texts(6, seed=7), np.random.default_rng(0)
    a, b = rng.normal(0, 1, (2, 3, 32))
    path = landscape.path(model, ids, a, b, points=5)
    assert path.distance == pytest.approx(np.sqrt(np.sum((a - b) ** 2)))
    assert path.cosine == pytest.approx(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))
    readings = read(model, [a, 0.75 * a + 0.25 * b, (a + b) / 2, 0.25 * a + 0.75 * b, b], [ids] * 5)
    np.testing.assert_allclose(path.nats, [r.nats.sum() for r in readings], rtol=1e-4)
    assert path.accuracies.tolist() == [r.right.mean() for r in readings] and len(set(path.nats)) == 5
    same = landscape.path(model, ids, a, a, points=5)
    assert same.distance == 0 and same.barrier_nats < 1e-3 and same.cosine == pytest.approx(1)
