"""Sweep: a grid of runs on the same text, run one after another or as launch commands, in one run table.

    OUT/codecs/CODEC             codecs built for the sweep
    OUT/stores/CODEC/SPLIT       token stores, shared by all runs over a codec
    OUT/cells/CELL.gin           complete configurations, for launch commands
    OUT/runs/CELL                the runs
    OUT/runs.jsonl               the run table; `compressed-lm report OUT` draws it

A killed sweep resumes when it is started again: stores shard by shard, runs from their newest checkpoint. A run that is
in the table with the same configuration, tokens and validation text is not repeated.
"""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from compressed_lm import caches, codecs, configuration, io, scaling
from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.corpus import Corpus
from compressed_lm.data.job import take_bytes
from compressed_lm.data.store import MANIFEST, TokenStore
from compressed_lm.errors import InputError
from compressed_lm.evaluation import BitsPerByte, predict_fn, run_row
from compressed_lm.formatting import duration
from compressed_lm.io import jsonl, locks
from compressed_lm.models import count_params, model_vocab_size
from compressed_lm.pipelines.build_codec import build_in
from compressed_lm.pipelines.grid import Cell, Plan, is_spec
from compressed_lm.pipelines.token_store import token_store
from compressed_lm.terminal import print_flush
from compressed_lm.training import durations, load_run, run_dir, train
from compressed_lm.training.step import Params

TABLE = "runs.jsonl"
MAX_EPOCHS = 4
"""Up to four epochs are about as good as new text (Muennighoff et al. 2023, arXiv 2305.16264)."""

LEARN_BYTES = 30_000_000
"""Maximum bytes of text for learning a codec of the sweep (sentencepiece, static_ac)."""


class Sweep:
    """A grid of runs in a folder.

    Args:
        out: the folder.
        cells: see `grid`.
        sources: label -> codec directory, dictionary file, name of a codec in the package, or spec to build.
        corpus: the text; the split "train" is for training, "validation" for evaluation.
        m1: M1 for codecs to build that need one.
        gin_files: configuration of all runs; the choices of the grid override it.
        max_bytes, validation_bytes: maximum bytes of text of the two splits.
        mesh_shape: sizes of the mesh axes of each run.
        report: receives progress lines.

    Attributes:
        failed: name of a cell -> error message.

    Raises:
        InputError: a codec, a size or a setting does not exist.
    """

    def __init__(
        self,
        out: str | os.PathLike,
        cells: Sequence[Cell],
        sources: Mapping[str, str],
        *,
        corpus: Corpus,
        m1: codecs.M1 | None = None,
        gin_files: Sequence[str] = (),
        max_bytes: int | None = None,
        validation_bytes: int | None = None,
        mesh_shape: Sequence[int] | None = None,
        report: Callable[[str], None] = print_flush,
    ):
        io.check_output(out, "The folder of the sweep", folder=True)
        self.out, self.cells, self.sources, self.corpus, self.m1 = io.local_path(out), cells, sources, corpus, m1
        self.gin_files, self.mesh_shape, self.report = gin_files, mesh_shape, report
        self.limits = {"train": max_bytes, "validation": validation_bytes}
        self.failed: dict[str, str] = {}
        self._compiled: dict[tuple, Any] = {}
        self._specs = {
            label: codecs.canonical_spec(source) if is_spec(source) else codecs.load(source).spec
            for label, source in sources.items()
        }
        for cell in cells:  # report wrong settings or lengths before any text is compressed
            durations.resolve(self._plan(cell).train, bytes_per_token=1, tokens_per_epoch=1)

    def show(self) -> None:
        """Reports parameters, tokens, epochs and training FLOPs of each cell."""
        finished = self._finished()
        flops: list[float] = []
        stores = {label: self._stores_made(label) for label in self.sources}
        width = max(len(cell.name) for cell in self.cells)
        self.report(f"{'run':{width}}  {'parameters':>13}  {'tokens':>15}  {'epochs':>6}  {'FLOPs':>8}")
        for cell in self.cells:
            plan = self._plan(cell, None, stores[cell.label])
            with contextlib.suppress(InputError):  # lengths in bytes or epochs are unknown without a store
                plan = dataclasses.replace(plan, train=durations.resolve(plan.train))
            known = isinstance(plan.train.steps, int)
            flops += [plan.flops] if known else []
            parts = [f"{cell.name:{width}}", f"{count_params(plan.model).total:13,}"]
            parts += [f"{plan.tokens:15,}" if known else f"{plan.train.steps:>15}"]
            parts += [f"{plan.epochs:6.2f}" if plan.stores else f"{'?':>6}", f"{plan.flops:.2e}" if known else "?"]
            if plan.stores and plan.identity in finished:
                parts.append(f"finished, {finished[plan.identity]['bits_per_byte']:.3f} bits per byte")
            self.report("  ".join(parts))
            self._warn(plan)
        open_ = f" for {len(flops)} of them" if len(flops) < len(self.cells) else ""
        self.report(f"{len(self.cells)} runs, {sum(flops):.2e} training FLOPs{open_}.")
        if missing := [label for label, made in stores.items() if not made]:
            self.report(f"Not compressed yet, so epochs are not known: {', '.join(missing)}.")

    def run(self) -> None:
        """Trains and evaluates every unfinished cell, one after another.

        Raises:
            InputError: another process works in the folder.
        """
        with locks.held(self.out):
            self._run()

    def _run(self) -> None:
        plans, finished = self._plans(), self._finished()
        left = sum(plan.flops for plan in plans if plan.identity not in finished)
        trained = seconds = 0.0
        for number, plan in enumerate(plans, 1):
            head = f"[{number}/{len(plans)}] {plan.cell.name}"
            if row := finished.get(plan.identity):
                self.report(f"{head}: finished before, {row['bits_per_byte']:.3f} bits per byte.")
                continue
            self.report(
                f"{head}: {count_params(plan.model).total:,} parameters, {plan.tokens:,} tokens, "
                f"{plan.epochs:.2f} epochs, {plan.flops:.2e} FLOPs."
            )
            self._warn(plan)
            start = time.monotonic()
            left -= plan.flops
            with self._reporting([plan.cell.name]):
                row = finished[plan.identity] = self._evaluate(plan, seconds=self._train(plan))
                took = time.monotonic() - start
                trained, seconds = trained + plan.flops, seconds + took
                rest = f"; the rest takes about {duration(left * seconds / trained)}" if left else ""
                self.report(f"{head}: {row['bits_per_byte']:.3f} bits per byte, took {duration(took)}{rest}.")
        self._write_tables(plans)

    def emit(self, launch: str, *, write: Callable[[str], None] = print_flush) -> None:
        """Writes one launch command for each untrained cell, and evaluates the trained ones.

        Args:
            launch: text before `compressed-lm train ...`; {name} in it is replaced by the name of the cell.
            write: receives the commands.
        """
        with locks.held(self.out):
            self._emit(launch, write)

    def _emit(self, launch: str, write: Callable[[str], None]) -> None:
        plans, finished = self._plans(), self._finished()
        for plan in plans:
            with self._reporting([plan.cell.name]):
                if row := finished.get(plan.identity):
                    self.report(f"{plan.cell.name}: finished before, {row['bits_per_byte']:.3f} bits per byte.")
                elif self._trained(plan):
                    row = finished[plan.identity] = self._evaluate(plan)
                    self.report(f"{plan.cell.name}: trained; {row['bits_per_byte']:.3f} bits per byte.")
                else:
                    self._warn(plan)
                    write(f"{launch.replace('{name}', plan.cell.name)} {self._command(plan)}".strip())
        self._write_tables(plans)

    def _command(self, plan: Plan) -> str:
        """Writes the configuration of a cell, and returns the command that trains it."""
        gin = self.out / "cells" / f"{plan.cell.name}.gin"
        io.write_atomic(gin, plan.text)
        command: list[Any] = ["compressed-lm", "train", "--gin", gin, "--store", plan.stores["train"].path]
        command += ["--validation_store", plan.stores["validation"].path] if plan.train.eval_every else []
        command += ["--mesh", ",".join(map(str, self.mesh_shape))] if self.mesh_shape else []
        return shlex.join(map(str, [*command, "--out", self._folder(plan)]))

    def _plan(self, cell: Cell, codec: Codec | None = None, stores: Mapping[str, TokenStore] | None = None) -> Plan:
        bindings = [f"{name}={value}" for name, value in cell.choices] + [f"data.codec={self._specs[cell.label]}"]
        text = configuration.load(self.gin_files, bindings)
        vocab_size = configuration.data().vocab_size
        assert vocab_size is not None  # the bindings set the codec
        train, model = configuration.train(), configuration.model(model_vocab_size(vocab_size))
        if stores:
            rates = durations.rates(stores["train"])
            train = durations.resolve(train, **rates)
            bindings += [f"train.{name}={value}" for name, value in dataclasses.asdict(train).items()]
            bindings += [f"data.bytes_per_token={rates['bytes_per_token']!r}"]
            text = configuration.load(self.gin_files, bindings)
        return Plan(cell, text, train, model, codec, stores or {})

    def _plans(self) -> list[Plan]:
        """Builds codecs and compresses text, and returns the cells in order, without those that fail."""
        made: dict[str, tuple[Codec, dict[str, TokenStore]]] = {}
        plans: list[Plan] = []
        if not self.out.exists():
            self.corpus.probe(*self.limits)
        for label in self.sources:
            with self._reporting([cell.name for cell in self.cells if cell.label == label]):
                made[label] = self._make(label)
        for cell in self.cells:
            if cell.label in made:
                with self._reporting([cell.name]):
                    plans.append(self._plan(cell, *made[cell.label]))
        return plans

    def _make(self, label: str) -> tuple[Codec, dict[str, TokenStore]]:
        """Returns a codec and its token stores; creates them if they do not exist."""
        source, learn = self.sources[label], min(self.limits["train"] or LEARN_BYTES, LEARN_BYTES)
        if is_spec(source):
            codec = build_in(
                self.out / "codecs" / label,
                source,
                m1=self.m1,
                documents=lambda: take_bytes(self.corpus.documents("train"), learn),
                compiled=self._compiled,
            )
        else:
            codec = codecs.load(source)
        return codec, {
            split: token_store(
                self.corpus, split, codec, self._store(label, split), max_bytes=limit, log=lambda line: None
            )
            for split, limit in self.limits.items()
        }

    def _store(self, label: str, split: str) -> pathlib.Path:
        return self.out / "stores" / label / split

    def _stores_made(self, label: str) -> dict[str, TokenStore]:
        """Returns the token stores of a codec if all are finished, otherwise none."""
        paths = {split: self._store(label, split) for split in self.limits}
        made = all((path / MANIFEST).exists() for path in paths.values())
        return {split: TokenStore.open(path) for split, path in paths.items()} if made else {}

    def _folder(self, plan: Plan) -> pathlib.Path:
        return self.out / "runs" / plan.cell.name

    def _train(self, plan: Plan) -> float:
        """Trains a cell, or the rest of it. Returns the training time (seconds), including earlier starts."""
        folder = self._folder(plan)
        eval_fn: Callable[[Params, int], dict[str, float]] | None = None
        if plan.train.eval_every:
            evaluator = BitsPerByte(
                predict_fn(plan.model, plan.stores["train"].eod_id),
                store=plan.stores["validation"],
                seq_len=plan.train.seq_len,
                batch_size=plan.train.batch_size,
                mesh_shape=self.mesh_shape,
            )

            def eval_fn(params: Params, step: int) -> dict[str, float]:
                return dict(evaluator.run(params))

        def accepted() -> None:
            io.write_atomic(folder / "config.gin", plan.text)

        result = train(
            plan.train,
            plan.model,
            plan.stores["train"],
            out=folder,
            mesh_shape=self.mesh_shape,
            eval_fn=eval_fn,
            compilation_cache=caches.xla(),  # runs that differ only in seed or length share compiled programs
            accepted=accepted,
        )
        return result.seconds["train"]

    def _trained(self, plan: Plan) -> bool:
        """Returns whether a launched run has reached its last step.

        Raises:
            InputError: its folder holds another run.
        """
        folder = self._folder(plan)
        if run_dir.read_record(folder) is None:
            return False
        run_dir.check(folder, plan.record)
        try:
            return load_run(folder).step == plan.train.steps
        except InputError:  # no checkpoint yet
            return False

    def _evaluate(self, plan: Plan, *, seconds: float | None = None) -> dict[str, Any]:
        """Appends the row of a trained cell to the run table, and returns it."""
        assert plan.codec is not None  # set by `_plans`
        store, train_store = plan.stores["validation"], plan.stores["train"]
        row = run_row.evaluate_run(self._folder(plan), codec=plan.codec, store=store, train_store=train_store)
        row |= {"run": f"runs/{plan.cell.name}", "cell": plan.identity, "choices": dict(plan.cell.choices)}
        row |= {"seconds": round(seconds, 1)} if seconds else {}
        scaling.append_row(self.out / TABLE, row)
        return row

    def _finished(self) -> dict[str, dict[str, Any]]:
        """Returns identity -> row of the cells in the run table."""
        if not (self.out / TABLE).exists():
            return {}
        rows = [row for _, row in jsonl.read(self.out / TABLE, skip_damaged=True)]
        return {row["cell"]: row for row in rows if row.get("final") and "bits_per_byte" in row and "cell" in row}

    def _write_tables(self, plans: Sequence[Plan]) -> None:
        """Writes the other tables of the report: compression ratios and learning curves."""
        if not plans:  # all cells failed: keep existing tables
            return
        finished, made = self._finished(), {plan.cell.label: plan for plan in plans}
        ratios = [
            run_row.ratio_row(plan.codec, plan.stores["validation"], None) for plan in made.values() if plan.codec
        ]
        jsonl.write(self.out / "ratios.jsonl", ratios)
        rows = [finished[plan.identity] for plan in plans if plan.identity in finished]
        curves = [point for row in rows for point in run_row.curve_rows(self.out / row["run"], row)]
        jsonl.write(self.out / "curves.jsonl", curves)

    def _warn(self, plan: Plan) -> None:
        if plan.stores and plan.epochs > MAX_EPOCHS:
            self.report(
                f"warning: {plan.cell.name} reads its text {plan.epochs:.1f} times; after {MAX_EPOCHS} times there is "
                "little to learn from it. Give more text or fewer tokens."
            )

    @contextlib.contextmanager
    def _reporting(self, names: Sequence[str]) -> Iterator[None]:
        """Records a failure for the given cells, so that the sweep continues."""
        try:
            yield
        except Exception as error:
            message = str(error)
            if not isinstance(error, InputError | OSError):
                traceback.print_exc()
                message = f"{type(error).__name__}: {message.splitlines()[0] if message else 'no message'}"
            self.failed |= dict.fromkeys(names, message)
            self.report(f"FAILED: {', '.join(names)}: {message}")
