"""Distance and linear path between two solutions of one text (papers/001 section 8)."""

import dataclasses

import numpy as np

from compressed_lm.cramming.frozen import FrozenModel, read


@dataclasses.dataclass(frozen=True)
class Path:
    """Straight line from one solution to another.

    Attributes:
        distance: Euclidean distance of all K * D numbers.
        cosine: cosine of the angle between the two.
        shares: float64[P], share of the second solution, 0 to 1.
        nats: float64[P], loss of the text at each point, summed over its tokens.
        accuracies: float64[P], share of right tokens at each point, teacher-forced.
    """

    distance: float
    cosine: float
    shares: np.ndarray
    nats: np.ndarray
    accuracies: np.ndarray

    @property
    def barrier_nats(self) -> float:
        """Largest excess of the loss over the line between its end values; 0 if there is no barrier."""
        line = self.nats[0] + self.shares * (self.nats[-1] - self.nats[0])
        return float(max(0.0, np.max(self.nats - line)))

    @property
    def connected(self) -> bool:
        """Whether all tokens of the text are right at every point."""
        return bool(np.all(self.accuracies == 1))


def path(model: FrozenModel, text: np.ndarray, first: np.ndarray, second: np.ndarray, *, points: int = 11) -> Path:
    """Returns the path between two solutions of a text.

    Args:
        model: the model.
        text: int32[N].
        first, second: float[K, D], vectors.
        points: number of points on the line, both ends included.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    shares = np.linspace(0, 1, points)
    between = [(1 - share) * first + share * second for share in shares]
    readings = read(model, between, [text] * points)
    return Path(
        float(np.linalg.norm(first - second)),
        float(np.sum(first * second) / (np.linalg.norm(first) * np.linalg.norm(second))),
        shares,
        np.array([reading.nats.sum() for reading in readings]),
        np.array([reading.right.mean() for reading in readings]),
    )
