"""Optimisation of the input vectors from which a frozen model generates given texts.

found = cram(FrozenModel.from_run(run), [ids], CramConfig(n_vectors=2))[0]
found.score == len(ids)  # every token is the model's most likely one
write(model, [found.vectors], [len(ids)])  # the text
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.cramming import batch_slots as slots_
from compressed_lm.cramming.config import CramConfig
from compressed_lm.cramming.frozen import FrozenModel, _by_bucket, padded
from compressed_lm.cramming.vectors import Mapping, initial, quantized
from compressed_lm.errors import InputError

CHECK_EVERY = 20
"""Steps between checks for stopped texts."""

FEWEST_SLOTS = 8
"""Smallest number of slots that are kept when most texts have stopped."""


@dataclasses.dataclass(frozen=True)
class Crammed:
    """Best vectors of a text.

    Attributes:
        numbers: float32[K, M], optimised numbers before quantisation.
        vectors: float32[K, D], the model's input, from the quantised numbers.
        n_tokens: N.
        score: number of right tokens, or the length of the longest exact prefix in progressive cramming; N for success.
        steps: number of measurements.
        best_step: updates before the best measurement.
        lowest_nats: the lowest loss of the whole text at any step, not necessarily of these vectors; the published
            tables pair it with the best accuracy.
        seed: seed of the initial numbers.
    """

    numbers: np.ndarray
    vectors: np.ndarray
    n_tokens: int
    score: int
    steps: int
    best_step: int
    lowest_nats: float
    seed: int

    @property
    def complete(self) -> bool:
        """Whether every token is right under teacher forcing."""
        return self.score == self.n_tokens


@dataclasses.dataclass(frozen=True)
class Status:
    """Progress of cramming.

    Attributes:
        finished, texts: number of stopped texts, and of all texts.
        steps: steps that are done or not needed, of `total_steps`.
        total_steps: number of steps if no text stopped early.
        accuracy: best score divided by the length, averaged over the running texts, or over those that stopped last if
            none is running.
    """

    finished: int
    texts: int
    steps: int
    total_steps: int
    accuracy: float


def cram(
    model: FrozenModel,
    texts: Sequence[np.ndarray],
    config: CramConfig,
    *,
    seeds: Sequence[int] | None = None,
    slots: int = 32,
    progress: Callable[[Status], None] = lambda status: None,
) -> list[Crammed]:
    """Returns the best vectors for each text.

    A text's result depends on the text, its seed, the settings and the model. It does not depend on the other texts,
    except for rounding if they change the number of slots.

    Args:
        model: the model.
        texts: int32[N] each, of any lengths.
        config: the settings.
        seeds: one seed per text, for restarts; by default `config.seed` for all.
        slots: largest number of texts in a batch. When a text stops, the next one takes its slot.
        progress: called every `CHECK_EVERY` steps.

    Raises:
        InputError: a text is empty or has ids outside the vocabulary, or there is not one seed per text.
    """
    texts = [model.check(text) for text in texts]
    seeds = [config.seed] * len(texts) if seeds is None else list(seeds)
    if len(seeds) != len(texts) or slots < 1 or min(seeds, default=0) < 0:
        raise InputError(
            f"{len(seeds)} seeds and slots={slots} were given for {len(texts)} texts; expected one seed of at least 0 "
            "per text and at least one slot."
        )
    job = _Job(model, texts, config, seeds, progress)
    for length, indices in _by_bucket([len(text) for text in texts]).items():
        job.run(indices, length, min(slots, len(indices)))
    return [job.found[i] for i in range(len(texts))]


class _Job:
    """All texts of a call."""

    def __init__(
        self,
        model: FrozenModel,
        texts: Sequence[np.ndarray],
        config: CramConfig,
        seeds: Sequence[int],
        progress: Callable[[Status], None],
    ) -> None:
        self._model, self._texts, self._config, self._seeds, self._progress = model, texts, config, seeds, progress
        self._mapping = Mapping.of(config, model.config.d_model)
        # Settings of the start are fixed here, so that they do not cause another compilation.
        self._program = dataclasses.replace(config, seed=0, init="normal", init_scale=1.0)
        self.found: dict[int, Crammed] = {}

    def run(self, indices: list[int], length: int, n_slots: int) -> None:
        """Crams the texts of these indices, padded to a length, in `n_slots` slots."""
        waiting = indices[n_slots:]
        owners: list[int | None] = list(indices[:n_slots])
        state = self._start(owners, length)
        while owners:
            state = slots_.advance(self._model.config, self._program, self._model.params, state, CHECK_EVERY)
            active = np.asarray(state.active)
            stopped = [slot for slot, owner in enumerate(owners) if owner is not None and not active[slot]]
            if stopped:
                self._harvest(state, stopped, owners)
                owners = [None if slot in stopped else owner for slot, owner in enumerate(owners)]
                new = dict(zip(stopped, waiting, strict=False))
                waiting = waiting[len(new) :]
                if new:
                    fresh = self._start([new.get(slot) for slot in range(len(owners))], length)
                    state = slots_.replaced(state, fresh, np.isin(np.arange(len(owners)), list(new)))
                    owners = [new.get(slot, owner) for slot, owner in enumerate(owners)]
            self._report(state, owners, stopped)
            state, owners = _compacted(state, owners)

    def _start(self, owners: Sequence[int | None], length: int) -> slots_.Slots:
        """Returns initial slots for texts; None makes an empty slot."""
        numbers = [
            np.zeros((self._config.n_vectors, self._mapping.stored), np.float32)
            if i is None
            else initial(
                self._config,
                self._mapping.width,
                std=self._model.embedding_std,
                text=self._texts[i],
                seed=self._seeds[i],
            )
            for i in owners
        ]
        texts = [np.zeros(0, np.int32) if i is None else self._texts[i] for i in owners]
        return slots_.start(self._config, np.stack(numbers), padded(texts, length), np.array([*map(len, texts)]))

    def _harvest(self, state: slots_.Slots, stopped: list[int], owners: Sequence[int | None]) -> None:
        """Stores the results of slots that have stopped."""
        state = jax.device_get(state._replace(opt=()))
        for slot in stopped:
            i, numbers = owners[slot], np.asarray(state.best[slot])
            assert i is not None
            vectors = self._mapping.vectors(quantized(numbers, self._config.format))
            self.found[i] = Crammed(
                numbers=numbers,
                vectors=np.asarray(vectors, np.float32),
                n_tokens=len(self._texts[i]),
                score=int(state.score[slot]),
                steps=int(state.step[slot]),
                best_step=int(state.best_step[slot]),
                lowest_nats=float(state.lowest_nats[slot]),
                seed=self._seeds[i],
            )

    def _report(self, state: slots_.Slots, owners: Sequence[int | None], stopped: list[int]) -> None:
        working = [slot for slot, owner in enumerate(owners) if owner is not None]
        shown = working or stopped
        score, length = (np.asarray(x)[shown] for x in (state.score, state.length))
        done = self._config.steps * len(self.found) + int(np.asarray(state.step)[working].sum())
        total = self._config.steps * len(self._texts)
        accuracy = float(np.mean(np.maximum(score, 0) / np.maximum(length, 1)))
        self._progress(Status(len(self.found), len(self._texts), done, total, accuracy))


def _compacted(state: slots_.Slots, owners: list[int | None]) -> tuple[Any, list[int | None]]:
    """Returns only the slots with a text if they are at most a quarter of all; empty slots cost as much as others.

    The number of slots is at least `FEWEST_SLOTS` and a power of two, since each number is a program to compile.
    """
    working = [slot for slot, owner in enumerate(owners) if owner is not None]
    if not working:
        return state, []
    size = max(FEWEST_SLOTS, 1 << (len(working) - 1).bit_length())
    if size * 4 > len(owners):
        return state, owners
    kept = (working + [slot for slot, owner in enumerate(owners) if owner is None])[:size]
    return jax.tree.map(lambda x: x[jnp.asarray(kept)], state), [owners[slot] for slot in kept]
