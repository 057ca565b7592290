"""seqio tasks: raw documents of any corpus, the same documents through a codec, and finished token stores.

Importing this module registers C4 (`tfds:c4/en:3.1.0`) as `c4_raw` and, through each codec of `CODEC_NAMES`, as
`c4_bytes`, `c4_sentencepiece`, `c4_ac_v256`, `c4_eiw_b16_v65k` and so on. Codecs are loaded at the first use from the
folder that COMPRESSED_LM_CODECS names.

    import seqio
    import compressed_lm.data.tasks

    dataset = seqio.get_mixture_or_task("c4_ac_v256").get_dataset({"targets": 1024}, split="train")
"""

import functools
import hashlib
import importlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from compressed_lm import codecs as codecs_room
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.corpus import Corpus
from compressed_lm.data.sources import open_corpus
from compressed_lm.data.store import TokenStore
from compressed_lm.data.vocabulary import N_RESERVED, CodecVocabulary
from compressed_lm.errors import InputError
from compressed_lm.specs import did_you_mean

C4 = "tfds:c4/en:3.1.0"
CODECS_FOLDER = "COMPRESSED_LM_CODECS"
_VOCABULARIES = ("v256", "v4k", "v65k")
CODEC_NAMES = (
    "bytes",
    "sentencepiece",
    *(f"pieces_{v}" for v in ("v4k", "v65k")),
    *(f"{family}_{v}" for family in ("gzip", "static_ac", "ac") for v in _VOCABULARIES),
    *(
        f"eiw_b{bits}_{v}{align}"
        for bits in (12, 16, 24, 32)
        for v in _VOCABULARIES
        for align in ("", "_word")
        if (bits, v) != (12, "v65k")  # a token must not be wider than a window
    ),
)
_ENCODED_TOGETHER = 32  # documents; codecs with a neural network are far faster on many


class GeneratorSource(seqio.DataSource):
    """A seqio source over a Python generator `examples(split, shard, n_shards)`, whatever the number of shards."""

    def __init__(
        self,
        examples: Callable[[str, int, int], Iterator[dict]],
        signature: Mapping[str, tf.TensorSpec],
        *,
        splits: Iterable[str],
        num_input_examples: Mapping[str, int] | None = None,
    ):
        super().__init__(splits=splits, num_input_examples=num_input_examples)
        self._examples = examples
        self._signature = dict(signature)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def get_dataset(
        self,
        split="train",
        shuffle=True,
        seed=None,
        shard_info=None,
        *,
        sequence_length=None,
        use_cached=False,
        num_epochs=1,
    ) -> tf.data.Dataset:
        """The examples of a shard in their fixed order; seqio shuffles them in its own buffer."""
        shard_info = shard_info or seqio.ShardInfo(index=0, num_shards=1)
        generate = functools.partial(self._examples, split, shard_info.index, shard_info.num_shards)
        return tf.data.Dataset.from_generator(generate, output_signature=self._signature)


class PreparedTfds(seqio.TfdsDataSource):
    """A data set that lies prepared on disk; nothing is ever downloaded.

    The folder is looked up at each use: `data_dir`, else the environment's TFDS_DATA_DIR, else TFDS's default.
    """

    def __init__(self, name: str, *, data_dir: str | None = None):
        if ":" not in name:
            raise InputError(
                f"The TFDS data set {name!r} was given, and NAME/CONFIG:VERSION was expected, such as c4/en:3.1.0. Add "
                "the version, so that the corpus stays the same when TFDS publishes another."
            )
        super().__init__(tfds_name=name, tfds_data_dir=data_dir, read_only=True)
        self._name = name
        self._data_dir = data_dir

    @property
    def tfds_dataset(self):
        data_dir = self._data_dir or os.environ.get("TFDS_DATA_DIR")
        loader = seqio.LazyTfdsLoader(self._name, data_dir=data_dir, read_only=True)
        where = f"under {data_dir}" if data_dir else "in TFDS's default folder"
        try:
            prepared, features = loader.builder.is_prepared(), loader.builder.info.features or {}
        except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
            raise InputError(
                f"The TFDS data set {self._name} was not found {where} ({str(error).strip().splitlines()[0]}). Write "
                "it as NAME/CONFIG:VERSION and set TFDS_DATA_DIR (or --data_dir) to the folder that holds it."
            ) from error
        if not prepared:
            raise InputError(
                f"The TFDS data set {self._name} is not prepared {where}. Set TFDS_DATA_DIR (or --data_dir) to the "
                f"folder that holds it, or prepare it once with `tfds build {self._name}`; compressed_lm itself "
                "downloads nothing."
            )
        if "text" not in features:
            raise InputError(
                f"The TFDS data set {self._name} has the features {', '.join(features)}, and a feature `text` was "
                "expected. Register a seqio task that names its text feature `text` and use seqio:TASK."
            )
        return loader


def seqio_task(spec: str, *, name: str | None = None, data_dir: str | None = None) -> seqio.Task:
    """The seqio task that gives the documents of a corpus unchanged, as `{"text": bytes}`.

    Args:
      spec: any spec of `open_corpus`.
      name: the task's name; by default one made from the spec.
      data_dir: where `tfds:` finds its data.
    """
    scheme, _, rest = spec.partition(":")
    if scheme == "seqio":
        return find_task(rest)
    name = (
        name or f"raw_{re.sub(r'[^0-9A-Za-z]+', '_', spec).strip('_')}_{hashlib.sha256(spec.encode()).hexdigest()[:8]}"
    )
    source = PreparedTfds(rest, data_dir=data_dir) if scheme == "tfds" else _corpus_source(open_corpus(spec))
    text = seqio.Feature(seqio.PassThroughVocabulary(size=0), add_eos=False, dtype=tf.string, rank=0)
    return _register(name, source=source, preprocessors=[_only_text], output_features={"text": text})


def register_tasks(
    prefix: str, spec: str, codecs: Iterable[str] | Mapping[str, Codec], *, data_dir: str | None = None
) -> list[str]:
    """The names of the tasks that it registers: `PREFIX_raw`, and `PREFIX_NAME` for each codec.

    The latter give `{"targets": int32[T]}`, one document an example, ending in 1.

    Args:
      prefix: what the names begin with.
      spec: any spec of `open_corpus`.
      codecs: codecs by name, or names to be found, at the first use, in the folder that COMPRESSED_LM_CODECS names.
      data_dir: where `tfds:` finds its data.
    """
    raw = seqio_task(spec, name=f"{prefix}_raw", data_dir=data_dir)
    by_name = codecs if isinstance(codecs, Mapping) else {name: functools.partial(load_codec, name) for name in codecs}
    for name, codec in by_name.items():
        _register(
            f"{prefix}_{name}",
            source=raw.source,
            preprocessors=[*raw.preprocessors, _encode, seqio.preprocessors.append_eos],
            output_features={"targets": seqio.Feature(CodecVocabulary(codec))},
        )
    return [raw.name, *(f"{prefix}_{name}" for name in by_name)]


def register_store_task(name: str, path: str | pathlib.Path, *, codec: Codec | None = None) -> seqio.Task:
    """The task over a finished token store: `{"targets": int32[T]}`, one document an example, ending in 1.

    Args:
      name: the task's name.
      path: the store.
      codec: the codec that made it, for decoding; without it the vocabulary passes ids through. Another codec is
        refused.
    """
    store = TokenStore.open(path, fingerprint=codec.fingerprint if codec else None)

    def examples(split: str, shard: int, n_shards: int) -> Iterator[dict]:
        for index, record in enumerate(store.documents()):
            if index % n_shards == shard:
                yield {"targets": record.ids + np.int32(N_RESERVED)}

    signature = {"targets": tf.TensorSpec([None], tf.int32)}
    size = store.vocab_size + N_RESERVED
    vocabulary = CodecVocabulary(codec) if codec else seqio.PassThroughVocabulary(size=size, eos_id=1)
    return _register(
        name,
        source=GeneratorSource(examples, signature, splits=("train",), num_input_examples={"train": len(store)}),
        preprocessors=[seqio.preprocessors.append_eos],
        output_features={"targets": seqio.Feature(vocabulary)},
    )


def load_codec(name: str) -> Codec:
    """The codec of a task name, from the folder that COMPRESSED_LM_CODECS names; `bytes` needs none.

    The sub-folder may be spelled as the task (`eiw_b16_v65k`) or in full (`eiw-b16-v65536`), and a name without
    vocabulary size (`sentencepiece`) means the only one there is.
    """
    if name == "bytes":
        return Bytes()
    folder = os.environ.get(CODECS_FOLDER)
    there = sorted(path for path in pathlib.Path(folder).glob("*") if path.is_dir()) if folder else []
    found = [path for path in there if _task_name(path.name) == name] or [
        path for path in there if _task_name(path.name).startswith(f"{name}_v")
    ]
    if len(found) != 1:
        holds = (
            f"{folder} holds {', '.join(path.name for path in there) or 'no codec'}"
            if folder
            else f"{CODECS_FOLDER} is not set"
        )
        raise InputError(
            f"The codec {name} is needed, and {holds}. Set {CODECS_FOLDER} to a folder that holds it as {name} (`make "
            "demo` leaves such a folder at runs/demo/codecs), or build it there with `compressed-lm build-codec`."
        )
    return codecs_room.load(found[0])


def _task_name(folder_name: str) -> str:
    """`eiw-b16-v65536` as tasks spell it: `eiw_b16_v65k`."""
    return re.sub(
        r"v(\d+)(?=_|$)",
        lambda v: f"v{int(v[1]) // 1000}k" if int(v[1]) >= 1024 else v[0],
        folder_name.lower().replace("-", "_"),
    )


def find_task(name: str) -> seqio.Task:
    """The registered task of that name, or of `MODULE:TASK` once the module is imported."""
    if name not in seqio.TaskRegistry.names() and ":" in name:
        module, _, name = name.rpartition(":")
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(
                f"The corpus seqio:{module}:{name} names the module {module}, which could not be imported ({error}). "
                "Name the module that registers the task and run where Python finds it."
            ) from error
    if name not in seqio.TaskRegistry.names():
        hint = did_you_mean(name, seqio.TaskRegistry.names())
        hint = hint or " seqio:MODULE:TASK imports the module that registers it."
        raise InputError(f"No seqio task named {name!r} is registered.{hint}")
    return seqio.TaskRegistry.get(name)


def _register(name: str, **definition) -> seqio.Task:
    """Adds a task; an earlier one of the same name is replaced, so that a notebook cell can run twice."""
    seqio.TaskRegistry.remove(name)
    return seqio.TaskRegistry.add(name, **definition)


def _corpus_source(corpus: Corpus) -> GeneratorSource:
    def examples(split: str, shard: int, n_shards: int) -> Iterator[dict]:
        for document in corpus.documents(split, shard=shard, n_shards=n_shards):
            yield {"text": document}

    return GeneratorSource(examples, {"text": tf.TensorSpec([], tf.string)}, splits=corpus.splits)


def _only_text(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(lambda example: {"text": example["text"]})


def _encode(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
    """Replaces `text` by its ids in `targets`, several documents at a time."""
    vocabulary = output_features["targets"].vocabulary

    def encode(documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids = vocabulary.encode_documents(documents.tolist())
        return np.concatenate(ids), np.array([len(sequence) for sequence in ids], np.int64)

    def encode_together(example: Mapping[str, tf.Tensor]) -> tf.RaggedTensor:
        flat, lengths = tf.numpy_function(encode, [example["text"]], (tf.int32, tf.int64))
        flat.set_shape([None])
        lengths.set_shape([None])
        return tf.RaggedTensor.from_row_lengths(flat, lengths)

    def ids_only(ids: tf.Tensor | tf.RaggedTensor) -> dict[str, tf.Tensor]:
        return {"targets": tf.ensure_shape(ids, [None])}

    return dataset.batch(_ENCODED_TOGETHER).map(encode_together).unbatch().map(ids_only)


register_tasks("c4", C4, CODEC_NAMES)
