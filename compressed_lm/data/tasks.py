"""Seqio tasks: raw documents of any corpus, the same documents encoded by a codec, and finished token stores.

Importing this module registers C4 (`tfds:c4/en:3.1.0`) as `c4_raw` and, through each codec of `CODEC_NAMES`, as
`c4_bytes`, `c4_sentencepiece`, `c4_ac_v256`, `c4_eiw_b16_v65k` and so on. Codecs are loaded at the first use from the
folder in the environment variable COMPRESSED_LM_CODECS.

    import seqio
    import compressed_lm.data.tasks

    dataset = seqio.get_mixture_or_task("c4_ac_v256").get_dataset({"targets": 1024}, split="train")
"""

import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import seqio
import tensorflow as tf

from compressed_lm import codecs as codecs_package
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.seqio_base import PreparedTfds, find_task, register, task_name, text_task
from compressed_lm.data.seqio_generators import CorpusSource, StoreSource
from compressed_lm.data.sources import open_corpus
from compressed_lm.data.store import TokenStore
from compressed_lm.data.vocabulary import N_RESERVED, CodecVocabulary
from compressed_lm.errors import InputError

C4 = "tfds:c4/en:3.1.0"
CODECS_FOLDER = "COMPRESSED_LM_CODECS"


def _task_name(codec: str) -> str:
    """Returns the name in tasks of a codec's spec or folder: `eiw_b16_v65k` for `eiw(b=16,v=65536)`."""
    name = re.sub(r"\w+=(?=[a-z])", "", codec.lower())  # `word` for `align=word`
    name = name.translate(str.maketrans("-(,", "___", "=)"))
    return re.sub(r"v(\d+)(?=_|$)", lambda v: f"v{int(v[1]) // 1000}k" if int(v[1]) >= 1024 else v[0], name)


CODEC_NAMES = tuple(_task_name(spec) for family in codecs_package.FAMILIES.values() for spec in family.task_specs)
"""Names of the codecs whose tasks are registered."""
_ENCODED_TOGETHER = 32  # documents per call: codecs with a neural network are much faster on batches


def seqio_task(spec: str, *, name: str | None = None, data_dir: str | None = None) -> seqio.Task:
    """Returns the seqio task of a corpus's unchanged documents, as `{"text": bytes}`.

    Args:
        spec: any spec of `open_corpus`.
        name: name of the task; by default it is made from the spec.
        data_dir: data folder of `tfds:`.
    """
    scheme, _, rest = spec.partition(":")
    if scheme == "seqio":
        return find_task(rest)
    source = PreparedTfds(rest, data_dir=data_dir) if scheme == "tfds" else CorpusSource(open_corpus(spec))
    return text_task(name or task_name(spec), source)


def register_tasks(
    prefix: str,
    spec: str,
    codecs: Iterable[str] | Mapping[str, Codec | Callable[[], Codec]],
    *,
    data_dir: str | None = None,
) -> list[str]:
    """Registers the tasks of a corpus, and returns their names: `PREFIX_raw`, and `PREFIX_NAME` for each codec.

    An example of the latter is `{"targets": int32[T]}`, one document, ending with 1. A cache (`seqio_cache_tasks`)
    holds the ids without the 1: encoding is what costs time, and end-of-sequence and trimming belong to the reader.

    Args:
        prefix: beginning of the names.
        spec: any spec of `open_corpus`.
        codecs: codecs by name, or functions that load them at the first use; or names of codecs in the folder
            COMPRESSED_LM_CODECS, which are loaded at the first use.
        data_dir: data folder of `tfds:`.
    """
    raw = seqio_task(spec, name=f"{prefix}_raw", data_dir=data_dir)
    by_name = codecs if isinstance(codecs, Mapping) else {name: functools.partial(load_codec, name) for name in codecs}
    before = [step for step in raw.preprocessors if not isinstance(step, seqio.CacheDatasetPlaceholder)]
    cache = seqio.CacheDatasetPlaceholder(required=raw.requires_caching)  # a task has one cache
    for name, codec in by_name.items():
        register(
            f"{prefix}_{name}",
            source=raw.source,
            preprocessors=[*before, _encode, cache, seqio.preprocessors.append_eos],
            output_features={"targets": seqio.Feature(CodecVocabulary(codec))},
        )
    return [raw.name, *(f"{prefix}_{name}" for name in by_name)]


def register_store_task(name: str, path: str | pathlib.Path, *, codec: Codec | None = None) -> seqio.Task:
    """Registers and returns the task of a token store: `{"targets": int32[T]}`, one document an example, ending in 1.

    Args:
        name: the task's name.
        path: the store.
        codec: the codec that made it, for decoding; without it the vocabulary passes ids through. Another codec is
            refused.
    """
    store = TokenStore.open(path, fingerprint=codec.fingerprint if codec else None)
    size = store.vocab_size + N_RESERVED
    vocabulary = CodecVocabulary(codec) if codec else seqio.PassThroughVocabulary(size=size, eos_id=1)
    return register(
        name,
        source=StoreSource(store, first_id=N_RESERVED),
        preprocessors=[seqio.CacheDatasetPlaceholder(), seqio.preprocessors.append_eos],
        output_features={"targets": seqio.Feature(vocabulary)},
    )


def load_codec(name: str) -> Codec:
    """Loads the codec of a task name from the folder COMPRESSED_LM_CODECS; `bytes` needs no folder.

    The sub-folder may have the task's name (`eiw_b16_v65k`) or the full one (`eiw-b16-v65536`). A name without a
    vocabulary size (`sentencepiece`) means the only codec of this family in the folder.
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
            f"{folder} contains {', '.join(path.name for path in there) or 'no codec'}"
            if folder
            else f"{CODECS_FOLDER} is not set"
        )
        raise InputError(
            f"The codec {name} is needed, and {holds}. Set {CODECS_FOLDER} to a folder that contains it as {name} "
            "(`make demo` makes such a folder at runs/demo/codecs), or build it there with `compressed-lm build-codec`."
        )
    return codecs_package.load(found[0])


def _encode(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
    """Replaces `text` by its ids in `targets`, in batches of documents."""
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
