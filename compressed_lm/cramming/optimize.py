"""Optimisation of the input vectors from which a frozen model generates given texts.

found = cram(FrozenModel.from_run(run), [ids], CramConfig(n_vectors=2))[0]
found.score == len(ids)  # every token is the model's most likely one
write(model, [found.vectors], [len(ids)])  # the text
"""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from compressed_lm.cramming import batch_slots as slots_
from compressed_lm.cramming import saved_state
from compressed_lm.cramming.config import CramConfig
from compressed_lm.cramming.frozen import FrozenModel, by_padded_length, padded, read
from compressed_lm.cramming.result import Crammed
from compressed_lm.cramming.vectors import Mapping, initial, initial_map, quantized
from compressed_lm.errors import InputError

CHECK_EVERY = 20
"""Steps between checks for stopped texts."""

FEWEST_SLOTS = 8
"""Smallest number of slots that are kept when most texts have stopped."""

CROPPED_TO = 4
"""Cropped targets are padded to a multiple of this; each width is a program to compile."""


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
    state: str | os.PathLike | None = None,
    save_every: float = 60.0,
) -> list[Crammed]:
    """Returns the best vectors for each text.

    A text's result depends on the text, its seed, the settings and the model. It does not depend on the other texts,
    except for rounding if they change the number of slots, or the computed part of the texts with `config.crop`. The
    steps at which stages are seen depend on them with `config.crop`, too.

    Args:
        model: the model.
        texts: int32[N] each, of any lengths.
        config: the settings.
        seeds: one seed per text, for restarts; by default `config.seed` for all.
        slots: largest number of texts in a batch. When a text stops, the next one takes its slot.
        progress: called every `CHECK_EVERY` steps.
        state: file for the state of unfinished work. If it exists, cramming resumes from it, with the same result as
            without the interruption. The caller removes it when the results are stored.
        save_every: seconds between writes of this file.

    Raises:
        InputError: a text is empty or has ids outside the vocabulary, or there is not one seed per text; or the state
            is of another model, other texts or other settings, or damaged.
    """
    texts = [model.check(text) for text in texts]
    seeds = [config.seed] * len(texts) if seeds is None else list(seeds)
    if len(seeds) != len(texts) or slots < 1 or min(seeds, default=0) < 0:
        raise InputError(
            f"{len(seeds)} seeds and slots={slots} were given for {len(texts)} texts; expected one seed of at least 0 "
            "per text and at least one slot."
        )
    job = _Job(model, texts, config, seeds, progress, state, save_every)
    lengths = [len(text) for text in texts]
    for length, indices in by_padded_length(model.config, lengths, n_vectors=config.n_vectors).items():
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
        path: str | os.PathLike | None,
        save_every: float,
    ) -> None:
        self._model, self._texts, self._config, self._seeds, self._progress = model, texts, config, seeds, progress
        self._mapping = Mapping.of(config, model.config.d_model)
        # Settings of the start are fixed here, so that they do not cause another compilation.
        self._program = dataclasses.replace(config, seed=0, init="normal", init_scale=1.0)
        self.found: dict[int, Crammed] = {}
        self._stages: dict[int, list[tuple[int, np.ndarray]]] = {}
        self._file = None if path is None else saved_state.StateFile(path, model, texts, config, seeds)
        self._save_every, self._saved = save_every, time.monotonic()
        self._resumed = self._file.read(self._empty) if self._file else None
        if self._resumed:
            self.found, self._stages = self._resumed.found, self._resumed.stages

    def run(self, indices: list[int], length: int, n_slots: int) -> None:
        """Crams the texts of these indices, padded to a length, in `n_slots` slots."""
        indices = [i for i in indices if i not in self.found]
        owners: list[int | None] = list(indices[:n_slots])
        waiting = indices[n_slots:]
        if self._resumed and self._resumed.length == length and owners:
            owners, waiting, state = self._resumed.owners, self._resumed.waiting, self._resumed.slots
        elif owners:
            state = self._start(owners, length)
        while owners:
            state = self._advance(state)
            active = np.asarray(state.active)
            self._keep_stages(state, owners)
            stopped = [slot for slot, owner in enumerate(owners) if owner is not None and not active[slot]]
            if stopped:
                self._harvest(state, stopped, owners)
                owners = [None if slot in stopped else owner for slot, owner in enumerate(owners)]
                new = dict(zip(stopped, waiting, strict=False))
                waiting = waiting[len(new) :]
                if new:
                    fresh = self._start([new.get(slot) for slot in range(len(owners))], length)
                    state = slots_.replaced(self._program, state, fresh, np.isin(np.arange(len(owners)), list(new)))
                    owners = [new.get(slot, owner) for slot, owner in enumerate(owners)]
            self._report(state, owners, stopped)
            state, owners = self._compacted(state, owners)
            if self._file and (stopped or time.monotonic() - self._saved >= self._save_every):
                unfinished = saved_state.Unfinished(self.found, self._stages, length, owners, waiting, state)
                self._file.write(unfinished)
                self._saved = time.monotonic()

    def _advance(self, state: slots_.Slots) -> slots_.Slots:
        """Returns the slots after up to `CHECK_EVERY` steps."""
        model, length = self._model, state.tokens.shape[1]
        width = length
        if self._config.crop:
            needed = int(np.max(np.asarray(state.target), where=np.asarray(state.active), initial=1))
            width = min(length, -(-needed // CROPPED_TO) * CROPPED_TO)
        cropped = state._replace(tokens=state.tokens[:, :width])
        after = slots_.advance(model.config, self._program, model.params, cropped, CHECK_EVERY)
        return after._replace(tokens=state.tokens)

    def _empty(self, n_slots: int, length: int) -> slots_.Slots:
        """Returns slots without texts, for the structure and the types of a state."""
        return self._start([None] * n_slots, length)

    def _keep_stages(self, state: slots_.Slots, owners: Sequence[int | None]) -> None:
        """Keeps the best numbers of the texts whose score has risen, in progressive cramming."""
        if self._config.method != "progressive":
            return
        scores, best = np.asarray(state.score), np.asarray(state.best)
        for slot, i in enumerate(owners):
            if i is None or scores[slot] < 1:
                continue
            stages = self._stages.setdefault(i, [])
            if stages and stages[-1][0] == scores[slot]:
                stages.pop()  # of equal scores, the best numbers
            stages.append((int(scores[slot]), best[slot].copy()))

    def _start(self, owners: Sequence[int | None], length: int) -> slots_.Slots:
        """Returns initial slots for texts; None makes an empty slot."""
        config, width = self._config, self._mapping.width
        nothing = np.zeros(0, np.int32)
        texts = [nothing if i is None else self._texts[i] for i in owners]
        seeds = [config.seed if i is None else self._seeds[i] for i in owners]
        numbers = [
            initial(config, width, std=self._model.embedding_std, text=text, seed=seed)
            for text, seed in zip(texts, seeds, strict=True)
        ]
        maps = []
        if config.projection != "signs":
            maps = [initial_map(config, width, text=text, seed=seed) for text, seed in zip(texts, seeds, strict=True)]
        return slots_.start(config, np.stack(numbers), padded(texts, length), np.array([*map(len, texts)]), maps)

    def _harvest(self, state: slots_.Slots, stopped: list[int], owners: Sequence[int | None]) -> None:
        """Stores the results of slots that have stopped."""
        state = jax.device_get(state._replace(opt=(), maps=(), map_opt=()))
        for slot in stopped:
            i, numbers = owners[slot], np.asarray(state.best[slot])
            assert i is not None
            vectors = self._mapping.vectors(quantized(numbers, self._config.format))
            stages = self._stages.pop(i, [])
            self.found[i] = Crammed(
                numbers=numbers,
                vectors=np.asarray(vectors, np.float32),
                n_tokens=len(self._texts[i]),
                score=int(state.score[slot]),
                steps=int(state.step[slot]),
                best_step=int(state.best_step[slot]),
                lowest_nats=self._lowest(i, float(state.lowest_nats[slot]), vectors),
                seed=self._seeds[i],
                stage_scores=np.array([score for score, _ in stages], np.int32),
                stage_numbers=np.array([x for _, x in stages], np.float32).reshape(-1, *numbers.shape),
            )

    def _lowest(self, i: int, measured: float, vectors: jax.Array) -> float:
        """Returns `Crammed.lowest_nats` of a text."""
        if not self._config.crop:
            return measured
        return float(read(self._model, [vectors], [self._texts[i]])[0].nats.sum())

    def _report(self, state: slots_.Slots, owners: Sequence[int | None], stopped: list[int]) -> None:
        working = [slot for slot, owner in enumerate(owners) if owner is not None]
        shown = working or stopped
        score, length = (np.asarray(x)[shown] for x in (state.score, state.length))
        done = self._config.steps * len(self.found) + int(np.asarray(state.step)[working].sum())
        total = self._config.steps * len(self._texts)
        accuracy = float(np.mean(np.maximum(score, 0) / np.maximum(length, 1)))
        self._progress(Status(len(self.found), len(self._texts), done, total, accuracy))

    def _compacted(self, state: slots_.Slots, owners: list[int | None]) -> tuple[slots_.Slots, list[int | None]]:
        """Returns only the slots with a text if they are at most a quarter of all; empty slots cost as much as others.

        The number of slots is at least `FEWEST_SLOTS` and a power of two, since each number is a program to compile.
        Cropped programs are compiled for each width anyway, so there only the slots with a text are kept.
        """
        working = [slot for slot, owner in enumerate(owners) if owner is not None]
        if not working:
            return state, []
        if self._config.crop:
            size = len(working)
        else:
            size = max(FEWEST_SLOTS, 1 << (len(working) - 1).bit_length())
            if size * 4 > len(owners):
                return state, owners
        if size == len(owners):
            return state, owners
        kept = (working + [slot for slot, owner in enumerate(owners) if owner is None])[:size]
        return slots_.taken(self._program, state, kept), [owners[slot] for slot in kept]
