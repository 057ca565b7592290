"""Formats to fuzz: initial files, mutations and readers."""

import bz2
import dataclasses
import gzip
import hashlib
import io
import json
import lzma
import pathlib
import shutil
from collections.abc import Callable, Mapping

import mutations as m
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

TEXT = b"The quick brown fox jumps over the lazy dog; 12 of 345 were caf\xc3\xa9s.\n"
DOCUMENTS = [TEXT * n for n in (1, 3, 8)] + [b"", b"\x00\xff\xfe", b"a" * 500]
RUN = {"vocab_size": 264, "d_model": 16, "n_layers": 1, "n_heads": 2, "d_head": 8, "d_ff": 32}


@dataclasses.dataclass(frozen=True)
class Format:
    """File format to fuzz.

    Attributes:
        files: name -> content of the initial files.
        changes: name -> mutation of this file, a function of (rng, content).
        read: function from the folder of the files to their contents, for comparison.
        checked: names of the files with checksums: every change must be refused or give the same result.
        after: called with the folder after a change, for example to correct a checksum; any result read after it is
            correct.
        weight: share of the cases.
    """

    files: Mapping[str, bytes]
    changes: Mapping[str, Callable]
    read: Callable[[pathlib.Path], object]
    checked: tuple[str, ...] = ()
    after: Callable[[pathlib.Path], None] | None = None
    weight: float = 1.0


def content_of(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns name -> content of all files in a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def formats(work: pathlib.Path) -> dict[str, Format]:
    """Returns all formats, with their files made in an empty folder."""
    made = {}
    for part in (_codecs, _ids, _texts, _tables, _configurations, _stores, _models, _runs, _vectors):
        made |= part(work / part.__name__.strip("_"))
    return made


def _built():
    from compressed_lm import codecs

    licence = (pathlib.Path(__file__).parents[2] / "LICENSE").read_bytes()
    learn = lambda: iter(licence.split(b"\n\n"))  # noqa: E731
    built = {spec: codecs.create(spec) for spec in ("gzip(v=256)",)}
    built |= {s: codecs.create(s, documents=learn) for s in ("static_ac(v=256)", "bpe(v=300)", "pieces(v=500)")}
    built["sentencepiece(v=400)"] = codecs.create("sentencepiece(v=400)", documents=learn)
    return built | {"bytes": codecs.Bytes(), "eiw16-en": codecs.load("eiw16-en")}


def _codecs(work):
    from compressed_lm import codecs
    from compressed_lm.codecs import encoded_file
    from compressed_lm.coding import dictionary_file
    from compressed_lm.coding.dictionary import Dictionary

    found = {}

    def read_codec(folder):
        codec = codecs.load(folder / "codec")
        documents = DOCUMENTS[:3]
        ids = codec.encode_batch(documents)
        if codec.decode_batch(ids) != documents:
            raise AssertionError(f"{codec.spec} loads, and does not decode what it encodes")
        return codec.fingerprint

    def right_digests(folder):
        """Corrects the checksums of a codec's files if its header can be read."""
        header = folder / "codec" / "codec.json"
        try:
            values = json.loads(header.read_bytes())
            for name in values["files"]:
                values["files"][name] = hashlib.sha256((header.parent / name).read_bytes()).hexdigest()
            header.write_text(json.dumps(values))
        except (OSError, ValueError, KeyError, TypeError):
            pass

    for spec, codec in _built().items():
        name = spec.partition("(")[0]
        codecs.save(codec, work / name / "codec")
        content = content_of(work / name)
        inner = {key: _inner(key) for key in content if not key.endswith("codec.json")}
        found[f"codec {name}"] = Format(
            content, {"codec/codec.json": m.json_object, **dict.fromkeys(inner, m.anything)}, read_codec, (*content,)
        )
        if inner:
            found[f"codec {name} with right checksums"] = Format(content, inner, read_codec, after=right_digests)
        encoded = {f"{i}.clm": encoded_file.encode_file(d, codec) for i, d in enumerate(DOCUMENTS)}

        def read_encoded(folder, codec=codec, names=tuple(encoded)):
            return [encoded_file.decode_file((folder / n).read_bytes(), codec, name=n) for n in names]

        found[f"encoded {name}"] = Format(encoded, dict.fromkeys(encoded, m.anything), read_encoded, (*encoded,))
        found[f"encoded {name} with a right checksum"] = Format(
            encoded, dict.fromkeys(encoded, m.encoded_file), read_encoded
        )
    # The 256 bytes, and pairs of letters.
    small = Dictionary(
        [-1] * 256 + [97 + i % 32 for i in range(768)], [*range(256), *(97 + i // 32 for i in range(768))]
    )
    content = {
        "d.clmd": dictionary_file.to_bytes(small, {"spec": "eiw(b=10,v=1024)", "m1_hash": "0", "m1_flops_per_byte": 1})
    }
    read = lambda folder: codecs.load(folder / "d.clmd").fingerprint  # noqa: E731
    found["dictionary"] = Format(content, {"d.clmd": m.anything}, read)
    found["dictionary with a right checksum"] = Format(content, {"d.clmd": m.with_sha256}, read)
    return found


def _inner(name):
    return m.json_object if name.endswith(".json") else m.anything


def _ids(work):
    """Returns formats of ids of every codec: numbers changed, inside and outside of the vocabulary."""
    found = {}
    for spec, codec in _built().items():
        content = {"ids": codec.encode(DOCUMENTS[2]).astype("<i8").tobytes()}

        def read(folder, codec=codec):
            raw = (folder / "ids").read_bytes()
            ids = np.frombuffer(raw[: len(raw) // 8 * 8], "<i8")
            return codec.decode_partial(ids), codec.decode(ids)

        found[f"ids {spec.partition('(')[0]}"] = Format(content, {"ids": m.anything}, read)
    return found


def _texts(work):
    from compressed_lm.data.sources import open_corpus

    lines = b"".join(json.dumps({"text": d.decode("latin-1"), "url": "x"}).encode() + b"\n" for d in DOCUMENTS)
    content = {
        "a.jsonl": lines,
        "b.gz": gzip.compress(lines),
        "c.bz2": bz2.compress(lines),
        "d.xz": lzma.compress(lines),
    }
    read = lambda folder: [  # noqa: E731
        len(list(open_corpus(f"{scheme}:{folder / name}").documents("train")))
        for scheme in ("json", "text")
        for name in content
    ]
    changes = {"a.jsonl": m.json_lines} | {name: m.anything for name in content if name != "a.jsonl"}
    rows = [{"text": d.decode("latin-1"), "id": i} for i, d in enumerate(DOCUMENTS)]
    packed = {"a.zst": zstandard.compress(lines), "b.parquet": b"", "c.parquet": b""}
    for name, compression in (("b.parquet", "zstd"), ("c.parquet", "none")):
        pq.write_table(pa.Table.from_pylist(rows), file := io.BytesIO(), row_group_size=2, compression=compression)
        packed[name] = file.getvalue()
    read_packed = lambda folder: [  # noqa: E731
        len(list(open_corpus(f"{scheme}:{folder / name}").documents("train")))
        for name, scheme in (
            ("a.zst", "json"),
            ("a.zst", "text"),
            ("b.parquet", "parquet"),
            ("c.parquet", "parquet(id=id)"),
        )
    ]
    return {
        "corpus": Format(content, changes, read, weight=2),
        "packed corpus": Format(packed, dict.fromkeys(packed, m.anything), read_packed, weight=2),
    }


def _tables(work):
    from compressed_lm import scaling
    from compressed_lm.scaling.tables import read_table
    from compressed_lm.tracking import read_json_lines

    row = {
        **{
            "run": "a",
            "group": "m2",
            "codec": "bytes",
            "representation": "float32",
            "n_params": 2000,
            "n_nonembed": 900,
        },
        **{"tokens": 10_000, "bytes": 9000, "flops_per_byte": 1e6, "flops_per_byte_softmax": 1.1e6, "seed": 0},
        **{"loss_nats_per_token": 1.5, "bits_per_byte": 2.2, "step": 10, "final": True, "config_hash": "0"},
        **{"flops_per_byte_runtime": 1e6, "versions": {"jax": "1"}, "validation_bytes": 1000},
    }
    rows = [
        row | {"n_params": 2000 * (i + 1), "tokens": 10_000 * (i % 4 + 1), "bits_per_byte": 2.2 - i / 20}
        for i in range(8)
    ]
    lines = b"".join(json.dumps(r).encode() + b"\n" for r in rows)
    columns = ["n_params", "tokens", "bits_per_byte"]
    csv = "\n".join([",".join(columns), *(",".join(str(r[c]) for c in columns) for r in rows)]).encode() + b"\n"
    tables = {"t.jsonl": lines, "t.json": json.dumps(rows).encode(), "t.csv": csv}

    def read_runs(folder):
        scaling.append_row(folder / "runs.jsonl", row)
        return len(scaling.load_runs(folder / "runs.jsonl"))

    def read_fit(folder):
        for name in tables:
            table = read_table(str(folder / name))
            scaling.fit(table, law="chinchilla", loss="bits_per_byte", fixed={"E": 0.5})

    changes = {"t.jsonl": m.json_lines, "t.json": m.json_object, "t.csv": m.text}
    metrics = b"".join(json.dumps({"step": i, "loss": 1 / (i + 1)}).encode() + b"\n" for i in range(20))
    return {
        "run table": Format({"runs.jsonl": lines}, {"runs.jsonl": m.json_lines}, read_runs, weight=2),
        "table to fit": Format(tables, changes, read_fit, weight=0.3),
        "metrics": Format(
            {"m.jsonl": metrics},
            {"m.jsonl": m.json_lines},
            lambda f: [r["step"] for r in read_json_lines(f / "m.jsonl")],
        ),
    }


def _configurations(work):
    from compressed_lm import codecs, configuration, weights

    gin = (
        b"train.steps = 20\ntrain.learning_rate = 1e-3\nmodel.size = 'micro'\nmodel.d_ff = 64\nx = 3\ntrain.seed = %x\n"
    )

    def read_gin(folder):
        configuration.load([str(folder / "a.gin")])
        return configuration.train(), configuration.model(300)

    specs = b"eiw(b=16,v=65536) int(b=4,g=32)+sparse(s=0.5) bpe(v=300) fp(e=2,m=1) vq(dim=2,bits=2) pieces(v=500)"

    def read_specs(folder):
        for spec in (folder / "specs").read_text("latin-1").split(" "):
            for parse in (codecs.canonical_spec, weights.representation):
                try:
                    parse(spec)
                except ValueError as error:
                    if type(error) is ValueError:
                        raise

    return {
        "gin": Format({"a.gin": gin}, {"a.gin": m.text}, read_gin),
        "specs": Format({"specs": specs}, {"specs": m.text}, read_specs),
    }


def _stores(work):
    from compressed_lm import codecs
    from compressed_lm.data.job import compress
    from compressed_lm.data.sources import open_corpus
    from compressed_lm.data.store import TokenStore

    source = work / "docs.jsonl"
    source.parent.mkdir(parents=True)
    source.write_text("".join(json.dumps({"text": (TEXT * n).decode()}) + "\n" for n in range(1, 9)))
    compress(open_corpus(f"json:{source}"), "train", codecs.Bytes(), work / "store", n_shards=2, log=lambda line: None)
    content = content_of(work / "store")

    def read(folder):
        store = TokenStore.open(folder)
        store.verify()
        rows = store.rows(16)
        return [r.ids.tolist() for r in store.documents()], [rows[i].tolist() for i in range(len(rows))]

    changes = {name: m.json_object if name.endswith(".json") else m.anything for name in content}
    checked = tuple(name for name in content if not name.startswith("tokens") or not name.endswith(".json"))
    return {
        "store": Format(content, changes, read, checked, weight=2),
        "store with a right checksum": Format(content, {"manifest.json": m.manifest}, read, weight=2),
    }


def _models(work):
    from compressed_lm import models
    from compressed_lm.codecs.m1 import M1
    from compressed_lm.exact import calibration
    from compressed_lm.models import transformer

    config = models.TransformerConfig(
        vocab_size=264, d_model=16, n_layers=1, n_heads=2, d_head=8, d_ff=32, position="relative", activation="relu"
    )
    import jax

    params = transformer.Transformer(config).init(jax.random.key(0), np.zeros((1, 8), np.int32))["params"]
    sample = np.random.default_rng(0).integers(0, 256, (4, 32)).astype(np.int32)
    m1 = M1(*calibration.quantise(params, config, sample, context=32))
    archive = {"m1.npz": m1.to_bytes()}
    read = lambda folder: M1.from_bytes((folder / "m1.npz").read_bytes()).hash  # noqa: E731
    return {"m1": Format(archive, {"m1.npz": m.anything}, read)}


def _runs(work):
    """Returns formats of runs: their record, packed weights, coded weights, Hugging Face checkpoints."""
    from compressed_lm import codecs, models, training
    from compressed_lm.data.job import compress
    from compressed_lm.data.sources import open_corpus
    from compressed_lm.post_training import entropy_code, huggingface, quantize

    work.mkdir(parents=True)
    (work / "docs.txt").write_bytes(TEXT * 40)
    codec = codecs.create("bpe(v=300)", documents=lambda: iter([TEXT * 60]))
    quiet = lambda line: None  # noqa: E731
    store = compress(open_corpus(f"text:{work}/docs.txt"), "train", codec, work / "store", n_shards=1, log=quiet)
    llama = RUN | {"vocab_size": 304, "position": "rotary", "activation": "silu", "gated_mlp": True}
    config = training.TrainConfig(steps=2, batch_size=4, seq_len=16, warmup_steps=1)
    model = models.TransformerConfig(**llama)
    training.train(config, model, store, out=work / "run", mesh_shape=(1, 1, 1))
    quantize.quantize_run(work / "run", "int(b=4,g=16)", out=work / "packed")
    entropy_code.pack_run(work / "run", step="0.25std", out=work / "run.clb")
    huggingface.export_run(work / "run", out=work / "exported", codec=codec)

    def read_run(folder):
        run = training.load_run(folder)
        return float(sum(np.abs(x).sum() for x in _leaves(run.params))), run.eod_id

    def read_coded(folder):
        shutil.rmtree(folder / "out", ignore_errors=True)
        entropy_code.unpack_run(folder / "run.clb", out=folder / "out")
        return read_run(folder / "out")

    def read_exported(folder):
        shutil.rmtree(folder / "out", ignore_errors=True)
        run, codec = huggingface.import_run(folder, out=folder / "out")
        if codec.decode(codec.encode(TEXT)) != TEXT:
            raise AssertionError("the imported tokenizer loses bytes")
        return run.eod_id

    run = content_of(work / "run")
    small = {
        "config.json": (work / "packed/config.json").read_bytes(),
        "weights.clw": (work / "packed/weights.clw").read_bytes(),
    }
    coded, exported = {"run.clb": (work / "run.clb").read_bytes()}, content_of(work / "exported")
    inner = {n: m.json_object if n.endswith(".json") else m.anything for n in exported}
    return {
        "run": Format(
            run, {n: m.json_object if n.endswith("config.json") else m.anything for n in run}, read_run, weight=0.1
        ),
        "packed run": Format(
            small, {"config.json": m.json_object, "weights.clw": m.anything}, read_run, ("weights.clw",), weight=0.2
        ),
        "packed run with a right checksum": Format(small, {"weights.clw": m.container}, read_run, weight=0.2),
        "coded run": Format(coded, {"run.clb": m.anything}, read_coded, ("run.clb",), weight=0.2),
        "coded run with a right checksum": Format(coded, {"run.clb": m.deflated_container}, read_coded, weight=0.2),
        "Hugging Face": Format(exported, inner, read_exported, weight=0.2),
    }


def _leaves(tree):
    return [y for x in tree.values() for y in _leaves(x)] if isinstance(tree, dict) else [np.asarray(tree, np.float64)]


def _vectors(work):
    from compressed_lm.cramming import study
    from compressed_lm.cramming.crammed_text import CrammedText
    from compressed_lm.cramming.vectors import Mapping, pack

    work.mkdir(parents=True)
    numbers = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)
    CrammedText(pack(numbers, "int(b=4)"), Mapping(16, 12, 3), 9, "a" * 32, "bytes", "b" * 8).save(work / "t.clt")
    content = {"t.clt": (work / "t.clt").read_bytes()}

    def read(folder):
        from compressed_lm import weights

        text = CrammedText.load(folder / "t.clt")
        return np.asarray(weights.unpack(text.packed)).tolist(), text.n_tokens

    rows = b"".join(
        json.dumps({"source": "a", "k": 1, "length": n, "accuracy": 0.5}).encode() + b"\n" for n in range(6)
    )
    return {
        "crammed text": Format(content, {"t.clt": m.anything}, read, ("t.clt",)),
        "crammed text with a right checksum": Format(content, {"t.clt": m.deflated_container}, read),
        "study": Format(
            {"cells.jsonl": rows}, {"cells.jsonl": m.json_lines}, lambda f: len(study.read_rows(f / "cells.jsonl"))
        ),
    }
