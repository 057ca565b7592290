"""File with the state of unfinished cramming, from which it resumes.

An `io.container` with the arrays of the finished texts, of the stages and of the batch slots. Its header has digests of
everything that determines the result: a state is never continued with another model, text or setting.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from compressed_lm import io
from compressed_lm.cramming.batch_slots import Slots
from compressed_lm.cramming.config import CramConfig
from compressed_lm.cramming.frozen import FrozenModel, padded_length
from compressed_lm.cramming.result import Crammed
from compressed_lm.errors import InputError
from compressed_lm.io.container import Kind

MAGIC = b"\x89CLS\r\n\x1a\n"
FORMAT_VERSION = 1
_FILE = Kind(MAGIC, FORMAT_VERSION, "unfinished cramming", "`cram`", "remove it to start again", deflated=True)
_TYPES = ("<f4", "<i4", "|b1")


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """State between two batches of steps.

    Attributes:
        found: results of the stopped texts, by index.
        stages: (score, numbers) of the stages of the other texts, by index.
        length: padded length of the texts in the slots.
        owners: index of the text in each slot; None for an empty slot.
        waiting: indices of the texts of this length that wait for a slot.
        slots: the slots.
    """

    found: dict[int, Crammed]
    stages: dict[int, list[tuple[int, np.ndarray]]]
    length: int
    owners: list[int | None]
    waiting: list[int]
    slots: Slots


class StateFile:
    """State file of one call of `cram`."""

    def __init__(
        self,
        path: str | os.PathLike,
        model: FrozenModel,
        texts: Sequence[np.ndarray],
        config: CramConfig,
        seeds: Sequence[int],
    ) -> None:
        self._path, self._n_texts = io.local_path(path), len(texts)
        self._lengths = {padded_length(model.config, len(ids), n_vectors=config.n_vectors) for ids in texts}
        self._key: dict[str, Any] = {
            "model": model.fingerprint,
            "texts": texts_digest(texts),
            "config": json.loads(json.dumps(dataclasses.asdict(config))),
            "seeds": list(seeds),
        }

    def write(self, state: Unfinished) -> None:
        """Writes the state; a file of an earlier moment is replaced at the end."""
        arrays = {f"slots/{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state.slots))}
        found, stages = [], []
        for i, crammed in state.found.items():
            fields = dataclasses.asdict(crammed)
            arrays |= {f"found/{i}/{name}": x for name, x in fields.items() if isinstance(x, np.ndarray)}
            found.append({"text": i} | {name: x for name, x in fields.items() if not isinstance(x, np.ndarray)})
        for i, entries in state.stages.items():
            stages.append({"text": i, "scores": [score for score, _ in entries]})
            arrays |= {f"stages/{i}/{n}": numbers for n, (_, numbers) in enumerate(entries)}
        header = {
            "key": self._key,
            "length": state.length,
            "owners": state.owners,
            "waiting": state.waiting,
            "found": found,
            "stages": stages,
            "tensors": [
                {"name": name, "shape": x.shape, "nbytes": x.nbytes, "dtype": x.dtype.str} for name, x in arrays.items()
            ],
        }
        _FILE.write(self._path, header, (x.tobytes() for x in arrays.values()))

    def read(self, empty: Callable[[int, int], Slots]) -> Unfinished | None:
        """Returns the state of the file; None if there is no file.

        Args:
            empty: returns empty slots for (number of slots, padded length), for the shapes and types.

        Raises:
            InputError: the state is of another model, other texts or other settings, or the file is damaged.
        """
        if not self._path.exists():
            return None
        header, arrays = _FILE.read(self._path, _array)
        key = header.get("key")
        if key != self._key:
            changed = [name for name, x in self._key.items() if not isinstance(key, dict) or key.get(name) != x]
            raise InputError(
                f"{self._path} has the state of a cramming that differs in its {' and '.join(changed)}. Give the "
                "original values to resume it, or remove the file to start again."
            )
        try:
            return self._unfinished(header, arrays, empty)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(
                f"{self._path} has an invalid state ({error!r}), though its checksum is right: another program wrote "
                "it. Remove it to start again."
            ) from error

    def _unfinished(
        self, header: dict[str, Any], arrays: dict[str, np.ndarray], empty: Callable[[int, int], Slots]
    ) -> Unfinished:
        owners, waiting, length = header["owners"], header["waiting"], header["length"]
        indices = [i for i in (*owners, *waiting) if i is not None] + [entry["text"] for entry in header["found"]]
        if len({*indices}) != len(indices) or not all(type(i) is int and 0 <= i < self._n_texts for i in indices):
            raise ValueError(f"the texts {indices} of {self._n_texts}")
        if length not in self._lengths or len(owners) > self._n_texts:  # before memory is allocated for them
            raise ValueError(f"{len(owners)} slots of length {length}")
        template = jax.eval_shape(lambda: empty(max(len(owners), 1), length))
        leaves, structure = jax.tree.flatten(template)
        found_leaves = [arrays[f"slots/{i}"] for i in range(len(leaves))] if owners else leaves
        for leaf, x in zip(leaves, found_leaves, strict=True):
            if x.shape != leaf.shape or x.dtype != leaf.dtype:
                raise ValueError(f"a slot array {x.dtype}{x.shape}, expected {leaf.dtype}{leaf.shape}")
        names = [field.name for field in dataclasses.fields(Crammed)]
        found = {}
        for entry in header["found"]:
            i = entry["text"]
            values = {name: arrays.get(f"found/{i}/{name}", entry.get(name)) for name in names}
            found[i] = Crammed(**values)
        stages = {
            entry["text"]: [
                (int(score), arrays[f"stages/{entry['text']}/{n}"]) for n, score in enumerate(entry["scores"])
            ]
            for entry in header["stages"]
        }
        slots = jax.tree.unflatten(structure, [jax.numpy.asarray(x) for x in found_leaves]) if owners else template
        return Unfinished(found, stages, length, owners, waiting, slots)


def texts_digest(texts: Sequence[np.ndarray]) -> str:
    """Returns the SHA-256 of the ids of texts."""
    digest = hashlib.sha256()
    for ids in texts:
        digest.update(len(ids).to_bytes(8, "little") + np.asarray(ids, "<i4").tobytes())
    return digest.hexdigest()


def summary(path: str | os.PathLike) -> list[dict[str, int | bool]]:
    """Returns the progress of each text that has begun, in a state file: text, score, steps, whether it has stopped.

    Raises:
        InputError: the file does not exist or is damaged.
    """
    header, arrays = _FILE.read(path, _array)
    rows = [
        {"text": found["text"], "score": found["score"], "steps": found["steps"], "stopped": True}
        for found in header["found"]
    ]
    n_leaves = sum(name.startswith("slots/") for name in arrays)
    last = {name: arrays.get(f"slots/{n_leaves - i}") for i, name in enumerate(reversed(Slots._fields), start=1)}
    for slot, owner in enumerate(header["owners"]):
        if owner is not None:
            score, steps = (int(last[name][slot]) for name in ("score", "step"))  # type: ignore[index]
            rows.append({"text": owner, "score": max(score, 0), "steps": steps, "stopped": False})
    return sorted(rows, key=lambda row: row["text"])


def _array(entry: dict[str, Any], shape: tuple[int, ...], payload: bytes) -> np.ndarray:
    if entry["dtype"] not in _TYPES:
        raise ValueError(f"the entry {entry}")
    return np.frombuffer(payload, entry["dtype"]).reshape(shape).copy()
