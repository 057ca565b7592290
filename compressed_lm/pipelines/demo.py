"""The whole job on real text: corpus, M1, codecs, token stores, M2 over each codec, evaluation, report.

Every stage goes on where a killed run left off: stores shard by shard, models from their newest checkpoint.
"""

import dataclasses
import json
import pathlib
import re

from compressed_lm import codecs, configuration, io, scaling, settings
from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.corpus import Corpus
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError
from compressed_lm.evaluation import BitsPerByte, generate, predict_fn, run_row
from compressed_lm.io import jsonl, locks
from compressed_lm.models import model_vocab_size
from compressed_lm.pipelines import m1 as m1_model
from compressed_lm.pipelines import stages
from compressed_lm.pipelines.build_codec import build_in, codec_folder
from compressed_lm.settings import setting
from compressed_lm.terminal import print_flush
from compressed_lm.training import load_run
from compressed_lm.training import train as train_model
from compressed_lm.training.config import FREE_FIELDS

GIN, CONFIG = "runs/demo.gin", "config.gin"
_GROWING = ("codecs", "codecs_shown", "curve_codecs", "curve_sizes", "curve_points", "sample_tokens")
"""Settings that add to a demo, or print more of it: they may change when it is started again."""

_BOUND = re.compile(r"^(\S+) = (.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """What the demo runs; M1 and M2 are described by `m1/model`, `m1/train`, `m2/model` and `m2/train`.

    Attributes:
        corpus: source of the training documents, and of the validation documents unless `validation` is set.
        validation: source of the validation documents.
        train_bytes: most bytes of text that any model may see.
        validation_bytes: bytes of validation text.
        m1: "train", or "pretrained" for the M1 that comes with the package.
        codecs: spellings of the codecs that get an M2.
        codecs_shown: codecs that are built, checked and shown in the table of ratios only.
        curve_codecs: codecs that also get an M2 of each of `curve_sizes`.
        curve_sizes: model sizes of the fitted curves.
        curve_points: evaluations during one training run, for the learning curves.
        n_shards: shards of each token store.
        sample_tokens: length of the generated samples.
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

    def __post_init__(self):
        settings.check(self)


Demo = configuration.register("demo", DemoConfig)


def run(out, *, gin_files=(GIN,), bindings=(), report=print_flush) -> pathlib.Path:
    """Runs the demo, or what is left of it, in a folder. Returns the path of report.html.

    Args:
        out: the folder.
        gin_files, bindings: configuration; see `configuration.load`.
        report: receives one line a stage.

    Raises:
        InputError: the corpus or the configuration cannot be used.
    """
    resolved = configuration.load(gin_files, bindings, scopes=("m1", "m2"))
    config, out = Demo(), io.local_path(out, "The folder of the demo")
    io.check_output(out, "The folder of the demo", folder=True)
    with locks.held(out):
        _refuse_other_settings(out / CONFIG, resolved)
        return _Demo(config, out, report).run(resolved)


def _refuse_other_settings(path: pathlib.Path, resolved: str) -> None:
    """Raises InputError where a demo was begun with settings that contradict these: what it made rests on them."""
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
            f"{path.parent} holds a demo that was begun with other settings ({'; '.join(differing)}). Give those to go "
            "on with it, or another folder (--out)."
        )


class _Demo:
    def __init__(self, config: DemoConfig, out: pathlib.Path, report):
        self.config, self.out, self.report = config, out, report
        self.log: list[dict] = []

    def run(self, resolved: str) -> pathlib.Path:
        corpus = self._check()
        self.report(f"Running on {stages.describe_devices()}; everything goes to {self.out}.")
        with stages.stage("corpus", self.log, report=self.report) as done:
            self.text = {
                split: compress(
                    corpus,
                    split,
                    codecs.Bytes(),
                    self.out / "stores" / "bytes" / split,
                    n_shards=self.config.n_shards,
                    max_bytes=limit,
                    log=self.report,
                )
                for split, limit in (("train", self.config.train_bytes), ("validation", self.config.validation_bytes))
            }
            done.append(
                "; ".join(
                    f"{split} {s.n_documents:,} documents, {s.n_bytes / 1e6:.2f} MB" for split, s in self.text.items()
                )
                + f" from {corpus.spec}."
            )
        io.write_atomic(self.out / CONFIG, resolved)  # the text is that of the folder: the demo is accepted
        # From here on the documents come from the store of raw bytes, whatever the source was.
        self.corpora = {split: open_corpus(f"store:{store.path}") for split, store in self.text.items()}

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
        from compressed_lm.reports.run import report  # matplotlib: only when there is something to draw

        paths = report(self.out)
        total = sum(entry["seconds"] for entry in self.log)
        self.report(
            f"The report is {paths.html} (and {paths.markdown.name} beside it). It took {total / 60:.1f} minutes."
        )
        return paths.html

    def _check(self) -> Corpus:
        """Returns the corpus. Raises InputError for what can be known to be wrong before anything is made."""
        for spec in (*self.config.codecs, *self.config.codecs_shown, *self.config.curve_codecs):
            codecs.canonical_spec(spec)
        for scope in ("m1", "m2"):
            configuration.train(scope)
            configuration.model(8, scope)
        for size in self.config.curve_sizes:
            configuration.model(8, "m2", size=size)
        corpus = open_corpus(self.config.corpus, validation=self.config.validation)
        if not self.out.exists():
            corpus.probe("train", "validation")
        return corpus

    def _m1(self) -> tuple[codecs.M1, dict]:
        with stages.stage("M1", self.log, report=self.report) as done:
            if self.config.m1 == m1_model.PRETRAINED:
                m1, row = m1_model.pretrained_m1(self.text["validation"])
                done.append(f"{m1.hash[:12]} comes with the package; {row['bits_per_byte']:.3f} bits per byte here.")
                return m1, row
            store = self.text["train"]
            result = train_model(
                configuration.train("m1"), configuration.model(model_vocab_size(256), "m1"), store, out=self.out / "m1"
            )
            m1 = m1_model.export_m1(self.out / "m1", store)
            row = run_row.evaluate_run(
                self.out / "m1", codec=codecs.Bytes(), store=self.text["validation"], train_store=store, group="m1"
            ) | {"run": "m1"}
            row["m1_exact_bits_per_byte"] = m1_model.exact_bits_per_byte(
                m1, list(self.corpora["validation"].documents())
            )
            done.append(
                f"{row['n_nonembed']:,} parameters without embeddings, {result.n_tokens / 1e6:.1f} MB of "
                f"text; {row['bits_per_byte']:.3f} bits per byte on validation, "
                f"{row['m1_exact_bits_per_byte']:.3f} through its exact integer tables."
            )
        return m1, row

    def _codecs(self, m1: codecs.M1) -> dict[str, Codec]:
        built, compiled = {}, {}
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

    def _stores(self, built: dict[str, Codec], m1_bits_per_byte: float):
        """Token stores of every codec, and how well each compresses."""
        stores, ratios, trained = {}, [], {codecs.canonical_spec(spec) for spec in self.config.codecs}
        tokens = configuration.train("m2")
        needed = tokens.steps * tokens.batch_size * tokens.seq_len
        with stages.stage("compress", self.log, report=self.report) as done:
            for spec, codec in built.items():
                folder = self.out / "stores" / codec_folder(spec)
                if spec == "bytes":
                    stores[spec] = dict(self.text)
                else:
                    validation = compress(
                        self.corpora["validation"],
                        "train",
                        codec,
                        folder / "validation",
                        n_shards=self.config.n_shards,
                        log=self.report,
                    )
                    stores[spec] = {"validation": validation}
                    if spec in trained:
                        # Enough text for one epoch, with a little over for what differs between the two splits.
                        limit = int(1.1 * needed * validation.n_bytes / (validation.n_tokens + validation.n_documents))
                        stores[spec]["train"] = compress(
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
                + " bytes per token; texts were decoded again and compared."
            )
        return stores, ratios

    def _models(self, built: dict[str, Codec], stores) -> list[tuple[str, str, float]]:
        """Trains M2 over every codec: (run folder, codec spec, seconds of training)."""
        config = configuration.train("m2")
        plan = [(codecs.canonical_spec(spec), None) for spec in self.config.codecs]
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
                config_here = dataclasses.replace(config, eval_every=max(1, config.steps // self.config.curve_points))
                result = train_model(
                    config_here,
                    model,
                    stores[spec]["train"],
                    out=self.out / "m2" / name,
                    eval_fn=lambda params, step, e=evaluator: dict(e.run(params)),
                )
                runs.append((f"m2/{name}", spec, result.seconds["train"]))
            done.append(
                f"{len(runs)} models, {result.n_tokens / 1e6:.2f}M tokens each, on {len(plan)} (codec, size) pairs."
            )
        return runs

    def _evaluate(self, runs, built: dict[str, Codec], stores) -> list[dict]:
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

    def _samples(self, runs, built: dict[str, Codec]) -> dict[str, str]:
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
