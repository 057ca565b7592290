"""Result of cramming a text."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Crammed:
    """Best vectors of a text.

    Attributes:
        numbers: float32[K, M], optimised numbers before quantisation; with a learned map the vectors.
        vectors: float32[K, D], the model's input, from the quantised numbers.
        n_tokens: N.
        score: number of right tokens, or the length of the longest exact prefix in progressive cramming; N for success.
        steps: number of measurements.
        best_step: updates before the best measurement.
        lowest_nats: the lowest loss of the whole text at any step, not necessarily of these vectors; the published
            tables pair it with the best accuracy. With `CramConfig.crop` it is the loss of these vectors.
        seed: seed of the initial numbers.
        stage_scores: int32[S], increasing scores of progressive cramming, seen every `optimize.CHECK_EVERY` steps; the
            last one is `score`. Empty for the full method.
        stage_numbers: float32[S, K, M], the numbers with these scores.
    """

    numbers: np.ndarray
    vectors: np.ndarray
    n_tokens: int
    score: int
    steps: int
    best_step: int
    lowest_nats: float
    seed: int
    stage_scores: np.ndarray
    stage_numbers: np.ndarray

    @property
    def complete(self) -> bool:
        """Whether every token is right under teacher forcing."""
        return self.score == self.n_tokens
