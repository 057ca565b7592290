"""Demo of the whole pipeline: corpus, M1, codecs, token stores, M2 over each codec, evaluation, report.

A killed demo resumes in every stage: stores shard by shard, models from their newest checkpoint.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compressed_lm import codecs, configuration, io, scaling, settings
from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.corpus import Corpus
from compressed_lm.data.sources import open_corpus
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.evaluation import BitsPerByte, generate, predict_fn, run_row
from compressed_lm.formatting import byte_size, duration, si
from compressed_lm.io import jsonl, locks
from compressed_lm.models import model_vocab_size
from compressed_lm.pipelines import m1 as m1_model
from compressed_lm.pipelines import stages
from compressed_lm.pipelines.build_codec import build_in, codec_folder
from compressed_lm.pipelines.first_look import first_look
from compressed_lm.pipelines.token_store import token_store
from compressed_lm.settings import setting
from compressed_lm.terminal import print_flush
from compressed_lm.training import load_run
from compressed_lm.training import train as train_model
from compressed_lm.training.config import FREE_FIELDS
from compressed_lm.training.step import Params

GIN, CONFIG = "runs/demo.gin", "config.gin"
_GROWING = ("codecs", "codecs_shown", "curve_codecs", "curve_sizes", "curve_points", "sample_tokens")
"""Settings that only add to a demo: they may change when it is started again."""

_BOUND = re.compile(r"^(\S+) = (.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Configuration of the demo; `m1/model`, `m1/train`, `m2/model` and `m2/train` configure M1 and M2.

    Attributes:
        corpus: source of the training documents, and of the validation documents unless `validation` is set.
        validation: source of the validation documents.
        train_bytes: maximum bytes of training text.
        validation_bytes: bytes of validation text.
        m1: "train", or "pretrained" for the M1 of the package.
        codecs: specs of the codecs with an M2.
        codecs_shown: specs of codecs in the table of ratios only, without a model.
        curve_codecs: specs of codecs that also have an M2 of each of `curve_sizes`.
        curve_sizes: model sizes of the fitted curves.
        curve_points: evaluations during one training run, for the learning curves.
        n_shards: shards of each token store.
        sample_tokens: tokens of each generated sample.
    """

    corpus: str = "installed_docs"
    validation: str | None = None
    train_bytes: int = setting(8_000_000, low=1, high=settings.LARGEST_BYTES)
    validation_bytes: int = setting(150_000, low=1, high=settings.LARGEST_BYTES)
    m1: str = setting("train", choices=("train", m1_model.PRETRAINED))
    codecs: tuple[str, ...] = ("bytes",)
    codecs_shown: tuple[str, ...] = ()
    curve_codecs: tuple[str, ...] = ()
    curve_sizes: tuple[str, ...] = ()
    curve_points: int = setting(4, low=1)
    n_shards: int = setting(2, low=1)
    sample_tokens: int = setting(96, low=1)

    def __post_init__(self) -> None:
        settings.check(self)


Demo = configuration.register("demo", DemoConfig)


def run(
    out: str | os.PathLike,
    *,
    gin_files: Sequence[str] = (GIN,),
    bindings: Sequence[str] = (),
    report: Callable[[str], None] = print_flush,
) -> pathlib.Path:
    """Runs the demo, or the rest of it, in a folder. Returns the path of report.html.

    Args:
        out: the folder.
        gin_files, bindings: configuration; see `configuration.load`.
        report: receives one line per stage.

    Raises:
        InputError: the corpus or the configuration cannot be used.
    """
    resolved = configuration.load(gin_files, bindings, scopes=("m1", "m2"))
    config, folder = Demo(), io.local_path(out, "The folder of the demo")
    io.check_output(folder, "The folder of the demo", folder=True)
    with locks.held(folder):
        _refuse_other_settings(folder / CONFIG, resolved)
        return _Demo(config, folder, report).run(resolved)


def _refuse_other_settings(path: pathlib.Path, resolved: str) -> None:
    """Raises InputError if a demo was started with settings that contradict these, because its files depend on them."""
    if not path.exists():
        return
    before, now = (dict(_BOUND.findall(text)) for text in (path.read_text(encoding="utf-8"), resolved))
    differing = [
        f"{name} {before.get(name, 'not set').strip()} -> {now.get(name, 'not set').strip()}"
        for name in sorted(before | now)
        if before.get(name) != now.get(name) and name.rpartition(".")[2] not in (*FREE_FIELDS, *_GROWING)
    ]
    if differing:
        raise InputError(
            f"{path.parent} holds a demo that was begun with other settings ({'; '.join(differing)}). Give those "
            "settings to resume it, or another folder (--out)."
        )


class _Demo:
    """Run of the demo in a folder."""

    def __init__(self, config: DemoConfig, out: pathlib.Path, report: Callable[[str], None]):
        self.config, self.out, self.report = config, out, report
        self.log: list[dict[str, Any]] = []
        self.bytes = codecs.create("bytes")

    def run(self, resolved: str) -> pathlib.Path:
        corpus = self._check()
        self.report(f"Running on {stages.describe_devices()}; everything goes to {self.out}.")
        with stages.stage("corpus", self.log, report=self.report) as done:
            self.text = {
                split: token_store(
                    corpus,
                    split,
                    self.bytes,
                    self.out / "stores" / "bytes" / split,
                    n_shards=self.config.n_shards,
                    max_bytes=limit,
                    log=self.report,
                )
                for split, limit in (("train", self.config.train_bytes), ("validation", self.config.validation_bytes))
            }
            done.append(
                "; ".join(
                    f"{split} {s.n_documents:,} documents, {byte_size(s.n_bytes)}" for split, s in self.text.items()
                )
                + f" from {corpus.spec}."
            )
        io.write_atomic(self.out / CONFIG, resolved)  # the text matches the folder: accept the settings
        # From here on, documents are read from the store of raw bytes.
        self.corpora = {split: open_corpus(f"store:{store.path}") for split, store in self.text.items()}

        self.report(first_look(list(self.corpora["validation"].documents())))

        m1, m1_row = self._m1()
        built = self._codecs(m1)
        stores, ratios = self._stores(built, m1_row["bits_per_byte"])
        runs = self._models(built, stores)
        rows = [m1_row, *self._evaluate(runs, built, stores)]
        samples = self._samples(runs, built)
        for row in rows:
            scaling.append_row(self.out / "runs.jsonl", row)
        jsonl.write(self.out / "ratios.jsonl", ratios)
        jsonl.write(
            self.out / "curves.jsonl", [c for row in rows[1:] for c in run_row.curve_rows(self.out / row["run"], row)]
        )
        jsonl.write(self.out / "stages.jsonl", self.log)
        io.write_atomic(self.out / "samples.json", json.dumps(samples, indent=1))
        meta = {
            "title": "Language models over compressed text",
            "corpus": self.config.corpus,
            "validation_bytes": self.text["validation"].n_bytes,
            "M1": f"{m1_row['n_nonembed']:,} parameters without embeddings, {m1_row['bits_per_byte']:.3f} bits per "
            + ("byte as floats" if self.config.m1 == "train" else "byte, pretrained"),
            "devices": stages.describe_devices(),
            "versions": ", ".join(f"{name} {version}" for name, version in run_row.versions().items()),
        }
        io.write_atomic(self.out / "meta.json", json.dumps(meta, indent=1))
        from compressed_lm.reports.run import report  # imports matplotlib

        paths = report(self.out)
        total = sum(entry["seconds"] for entry in self.log)
        self.report(
            f"The report is {paths.html} (and {paths.markdown.name} in the same folder). It took {duration(total)}."
        )
        return paths.html

    def _check(self) -> Corpus:
        """Returns the corpus, after a check of all settings before any file is written."""
        for spec in (*self.config.codecs, *self.config.codecs_shown, *self.config.curve_codecs):
            codecs.canonical_spec(spec)
        for scope in ("m1", "m2"):
            configuration.train(scope)
            configuration.model(8, scope)
        for size in self.config.curve_sizes:
            configuration.model(8, "m2", size=size)
        self._steps()
        corpus = open_corpus(self.config.corpus, validation=self.config.validation)
        if not self.out.exists():
            corpus.probe("train", "validation")
        return corpus

    def _steps(self) -> int:
        """Returns the updates of each M2.

        Raises:
            InputError: the setting is not a number of updates; the demo needs it before token stores exist.
        """
        steps = configuration.train("m2").steps
        if not isinstance(steps, int):
            raise InputError(f"m2/train.steps={steps!r} was given. The demo expects a number of steps, such as 400.")
        return steps

    def _m1(self) -> tuple[codecs.M1, dict[str, Any]]:
        with stages.stage("M1", self.log, report=self.report) as done:
            if self.config.m1 == m1_model.PRETRAINED:
                m1, row = m1_model.pretrained_m1(self.text["validation"])
                done.append(f"{m1.hash[:12]} of the package; {row['bits_per_byte']:.3f} bits per byte here.")
                return m1, row
            store = self.text["train"]
            result = train_model(
                configuration.train("m1"), configuration.model(model_vocab_size(256), "m1"), store, out=self.out / "m1"
            )
            m1 = m1_model.export_m1(self.out / "m1", store)
            row = run_row.evaluate_run(
                self.out / "m1", codec=self.bytes, store=self.text["validation"], train_store=store, group="m1"
            ) | {"run": "m1"}
            row["m1_exact_bits_per_byte"] = m1_model.exact_bits_per_byte(
                m1, list(self.corpora["validation"].documents())
            )
            done.append(
                f"{row['n_nonembed']:,} parameters without embeddings, {byte_size(result.n_tokens)} of "
                f"text; {row['bits_per_byte']:.3f} bits per byte on validation, "
                f"{row['m1_exact_bits_per_byte']:.3f} with its exact integer tables."
            )
        return m1, row

    def _codecs(self, m1: codecs.M1) -> dict[str, Codec]:
        built: dict[str, Codec] = {}
        compiled: dict[tuple, Any] = {}
        specs = [*self.config.codecs, *self.config.codecs_shown]
        with stages.stage("codecs", self.log, report=self.report) as done:
            for spec in specs:
                codec = build_in(
                    self.out / "codecs" / codec_folder(spec),
                    spec,
                    m1=m1,
                    documents=lambda: self.corpora["train"].documents(),
                    compiled=compiled,
                )
                built[codec.spec] = codec
            done.append(f"{len(built)} codecs saved in {self.out / 'codecs'}.")
        return built

    def _stores(
        self, built: dict[str, Codec], m1_bits_per_byte: float
    ) -> tuple[dict[str, dict[str, TokenStore]], list[dict[str, Any]]]:
        """Returns the token stores of every codec, and rows of compression ratios."""
        stores: dict[str, dict[str, TokenStore]] = {}
        ratios = []
        trained = {codecs.canonical_spec(spec) for spec in self.config.codecs}
        train = configuration.train("m2")
        needed = self._steps() * train.batch_size * train.seq_len
        with stages.stage("compress", self.log, report=self.report) as done:
            for spec, codec in built.items():
                folder = self.out / "stores" / codec_folder(spec)
                if spec == "bytes":
                    stores[spec] = dict(self.text)
                else:
                    validation = token_store(
                        self.corpora["validation"],
                        "train",
                        codec,
                        folder / "validation",
                        n_shards=self.config.n_shards,
                        log=self.report,
                    )
                    stores[spec] = {"validation": validation}
                    if spec in trained:
                        # Text for one epoch, plus 10 % because the splits have different bytes per token.
                        limit = int(1.1 * needed * validation.n_bytes / (validation.n_tokens + validation.n_documents))
                        stores[spec]["train"] = token_store(
                            self.corpora["train"],
                            "train",
                            codec,
                            folder / "train",
                            n_shards=self.config.n_shards,
                            max_bytes=limit,
                            log=self.report,
                        )
                ratios.append(run_row.ratio_row(codec, stores[spec]["validation"], m1_bits_per_byte))
            done.append(
                ", ".join(f"{r['codec']} {r['bytes_per_token']:.2f}" for r in ratios)
                + " bytes per token; texts were decoded and compared."
            )
        return stores, ratios

    def _models(
        self, built: dict[str, Codec], stores: Mapping[str, Mapping[str, TokenStore]]
    ) -> list[tuple[str, str, float]]:
        """Trains M2 over every codec, and returns (run folder, codec spec, seconds of training) of each."""
        config = configuration.train("m2")
        plan: list[tuple[str, str | None]] = [(codecs.canonical_spec(spec), None) for spec in self.config.codecs]
        base = configuration.model(8, "m2")
        for spec in map(codecs.canonical_spec, self.config.curve_codecs):
            plan += [
                (spec, size) for size in self.config.curve_sizes if configuration.model(8, "m2", size=size) != base
            ]
        runs = []
        with stages.stage("M2", self.log, report=self.report) as done:
            for spec, size in plan:
                model = configuration.model(
                    model_vocab_size(built[spec].vocab_size), "m2", **({"size": size} if size else {})
                )
                name = codec_folder(spec) + (f"-{size}" if size else "")
                evaluator = BitsPerByte(
                    predict_fn(model, built[spec].vocab_size),
                    store=stores[spec]["validation"],
                    seq_len=config.seq_len,
                    stride=4,
                )
                config_here = dataclasses.replace(config, eval_every=max(1, self._steps() // self.config.curve_points))
                result = train_model(
                    config_here,
                    model,
                    stores[spec]["train"],
                    out=self.out / "m2" / name,
                    eval_fn=_eval_fn(evaluator),
                )
                runs.append((f"m2/{name}", spec, result.seconds["train"]))
            done.append(f"{len(runs)} models, {si(result.n_tokens)} tokens each, on {len(plan)} (codec, size) pairs.")
        return runs

    def _evaluate(
        self,
        runs: Sequence[tuple[str, str, float]],
        built: dict[str, Codec],
        stores: Mapping[str, Mapping[str, TokenStore]],
    ) -> list[dict[str, Any]]:
        with stages.stage("evaluate", self.log, report=self.report) as done:
            rows = [
                run_row.evaluate_run(
                    self.out / name,
                    codec=built[spec],
                    store=stores[spec]["validation"],
                    train_store=stores[spec]["train"],
                )
                | {"run": name, "seconds": round(seconds, 1)}
                for name, spec, seconds in runs
            ]
            best = min(rows, key=lambda row: row["bits_per_byte"])
            done.append(
                f"{len(rows)} models on the same {self.text['validation'].n_bytes:,} bytes; best "
                f"{best['bits_per_byte']:.3f} bits per byte ({best['run']})."
            )
        return rows

    def _samples(self, runs: Sequence[tuple[str, str, float]], built: dict[str, Codec]) -> dict[str, str]:
        samples = {}
        with stages.stage("generate", self.log, report=self.report) as done:
            for name, spec, _ in runs[: len(self.config.codecs)]:
                run = load_run(self.out / name)
                samples[spec] = "".join(
                    generate(
                        run.params, run.model_config, built[spec], n_tokens=self.config.sample_tokens, temperature=0.7
                    )
                )
            done.append(f"{len(samples)} samples of {self.config.sample_tokens} tokens.")
        return samples


def _eval_fn(evaluator: BitsPerByte) -> Callable[[Params, int], dict[str, float]]:
    return lambda params, step: dict(evaluator.run(params))
