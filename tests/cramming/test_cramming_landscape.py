"""What lies between two solutions of one text."""

import numpy as np
import pytest

from compressed_lm.cramming import CramConfig, cram, landscape, read


def test_a_barrier_is_what_the_loss_has_above_the_line():
    """Losses 1, 5, 3 at the ends and in the middle: the line has 2 there, the barrier is 3; without a bump it is 0."""
    shares = np.array([0, 0.5, 1])
    bump = landscape.Path(1.0, 0.0, shares, np.array([1.0, 5.0, 3.0]), np.array([1.0, 0.5, 1.0]))
    assert bump.barrier_nats == 3 and not bump.connected
    flat = landscape.Path(1.0, 0.0, shares, np.array([1.0, 1.5, 3.0]), np.array([1.0, 1.0, 1.0]))
    assert flat.barrier_nats == 0 and flat.connected


def test_the_ends_are_the_solutions(model, texts):
    """Distance and angle are those of the vectors, losses at the ends are those of reading them, and the middle is
    neither; from a solution to itself nothing lies between."""
    (ids,) = texts(2, seed=7)
    config = CramConfig(n_vectors=2, steps=60, learning_rate=0.05)
    a, b = (f.vectors for f in cram(model, [ids] * 2, config, seeds=[0, 1]))
    path = landscape.path(model, ids, a, b, points=5)
    assert path.distance == pytest.approx(np.linalg.norm(a - b)) and path.distance > 0.1
    assert path.cosine == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=0.2) and abs(path.cosine) < 1
    ends = [r.nats.sum() for r in read(model, [a, b, (a + b) / 2], [ids] * 3)]
    np.testing.assert_allclose(path.nats[[0, 4, 2]], ends, rtol=1e-4)
    assert path.accuracies[[0, 4]].tolist() == [1, 1]
    same = landscape.path(model, ids, a, a, points=5)
    assert (same.distance, same.connected) == (0, True) and same.barrier_nats < 1e-3
    assert same.cosine == pytest.approx(1)
