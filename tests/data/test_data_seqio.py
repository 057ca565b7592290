"""Tests that need TensorFlow, in one file because its import takes seconds."""

import functools
import json
import os
import pickle

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from compressed_lm import codecs
from compressed_lm.codecs import device_dictionary
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data import seqio_base, tasks
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.data.vocabulary import CodecVocabulary
from compressed_lm.errors import InputError

DOCUMENTS = [
    "The first page.",
    "",
    "Ein Satz auf Deutsch: größer.",
    "日本語の文",
    *(f"Page number {i} has some more words." for i in range(60)),
]


class Pairs(Bytes):
    """Codec with two ids per byte, its halves: its ids are not its bytes."""

    name = "pairs"
    spec = "pairs"
    vocab_size = 16
    fingerprint = "pairs" * 10

    def _encode_documents(self, documents):
        halves = [np.frombuffer(document, np.uint8) for document in documents]
        return [np.stack([h >> 4, h & 15], 1).reshape(-1).astype(np.int32) for h in halves]

    def _decode_sequences(self, sequences):
        return [(ids[::2] * 16 + ids[1::2]).astype(np.uint8).tobytes() for ids in sequences]


def texts(dataset):
    return [example["text"] for example in dataset.as_numpy_iterator()]


def targets(task, **options):
    dataset = task.get_dataset(sequence_length=None, split="train", shuffle=False, **options)
    return [example["targets"].tolist() for example in dataset.as_numpy_iterator()]


@pytest.fixture(scope="module")
def json_spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    for part in range(3):
        lines = [json.dumps({"text": text, "url": "u"}) for text in DOCUMENTS[part::3]]
        (folder / f"docs-{part}.json").write_text("\n".join(lines) + "\n")
    return f"json:{folder}/docs-*.json"


@pytest.fixture(scope="module")
def three_units(json_spec):
    """Returns a corpus of three units: small files of one corpus are one unit, those of a mixture are not."""
    return "mix:" + ",".join(json_spec.replace("*", str(part)) for part in range(3))


@pytest.fixture(scope="module")
def c4_dir(tmp_path_factory):
    """Returns a small data set in C4's schema: features text, timestamp, url; name c4, config en, version 3.1.0."""
    folder = tmp_path_factory.mktemp("tfds")
    version = folder / "c4" / "en" / "3.1.0"
    version.mkdir(parents=True)
    features = tfds.features.FeaturesDict({key: tfds.features.Text() for key in ("text", "timestamp", "url")})
    files = {
        "train.tfrecord-00000-of-00002": DOCUMENTS[:40],
        "train.tfrecord-00001-of-00002": DOCUMENTS[40:],
        "validation.tfrecord-00000-of-00001": DOCUMENTS[:5],
    }
    for name, documents in files.items():
        with tf.io.TFRecordWriter(str(version / f"c4-{name}")) as writer:
            for text in documents:
                page = {"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org"}
                writer.write(features.serialize_example(features.encode_example(page)))
    tfds.folder_dataset.write_metadata(data_dir=version, features=features)
    return folder


@pytest.fixture
def c4(c4_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(c4_dir))


def test_vocabulary_is_lossless_for_every_byte_string():
    """Text, invalid UTF-8, all bytes and the empty string round-trip, in Python and inside TensorFlow."""
    vocabulary = CodecVocabulary(Pairs())
    for document in (b"", b"abc", bytes(range(256)), b"\xff\xfe\x00", "größer".encode()):
        ids = vocabulary.encode(document)
        assert vocabulary.decode_bytes(ids) == document
        assert vocabulary.encode(vocabulary.decode(ids)) == ids
        assert vocabulary.encode_tf(tf.constant(document)).numpy().tolist() == ids
        assert vocabulary.decode_tf(tf.constant(ids, tf.int32, shape=[len(ids)])).numpy() == document


@pytest.mark.parametrize("text", ["a\ud800", "\udfff", "\udc7f", "\ud83d\ude00", "\udcc3\udca9", "a\udcff\ud800"])
def test_vocabulary_refuses_lone_surrogates_by_name(text):
    """Text that would not round-trip raises an error that says what to do, not a UnicodeEncodeError."""
    with pytest.raises(InputError, match=r"lone surrogate.* pass bytes: text\.encode"):
        CodecVocabulary(Bytes()).encode(text)


@pytest.mark.parametrize("ids", [[2.5], [True], ["a"], [[2, 3]], [-1], [258], [2**70], None, b"ab"])
def test_vocabulary_decodes_nothing_but_its_own_ids(ids):
    """Fractions, booleans, text, rows and ids out of range are refused, not truncated or dropped."""
    with pytest.raises(InputError, match="CodecVocabulary"):
        CodecVocabulary(Bytes()).decode_bytes(ids)


def test_vocabulary_reserves_padding_and_end():
    """0 is padding, 1 is end-of-sequence, and the codec's ids begin at 2; ids after the end are not decoded."""
    vocabulary = CodecVocabulary(Bytes())
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.vocab_size) == (0, 1, 258)
    assert vocabulary.encode("AB") == [67, 68]
    assert vocabulary.decode([67, 68, 1, 67, 0]) == "AB"
    assert vocabulary.decode_tf(tf.constant([[67, 1, 68], [68, 67, 0]])).numpy().tolist() == [b"A", b"BA"]


def test_vocabulary_loads_its_codec_once_and_late():
    """A vocabulary calls its loader at the first use, and only once."""
    loaded = []
    vocabulary = CodecVocabulary(lambda: loaded.append(1) or Pairs())
    assert not loaded
    assert vocabulary.vocab_size == 18 and vocabulary.encode("a") == [8, 3]
    assert loaded == [1]


def test_vocabulary_pickles_its_loader_or_its_codec():
    """Workers get the function that loads a codec, not the loaded codec; a codec without such a function travels."""
    late = CodecVocabulary(functools.partial(codecs.load, "pieces16-en"))
    assert late.vocab_size == 65538 and len(pickle.dumps(late)) < 1000
    for vocabulary in (late, CodecVocabulary(Pairs())):
        copy = pickle.loads(pickle.dumps(vocabulary))
        assert copy == vocabulary
        assert copy.encode("größer") == vocabulary.encode("größer")


def test_raw_task_gives_the_corpus(json_spec):
    """Documents from seqio equal those of `open_corpus`, in the same order."""
    task = tasks.seqio_task(json_spec)
    found = texts(task.get_dataset(sequence_length=None, split="train", shuffle=False))
    assert found == list(open_corpus(json_spec).documents())
    assert sorted(found) == sorted(text.encode() for text in DOCUMENTS)


@pytest.mark.parametrize("n_shards", [2, 5])
def test_shard_info_parts_are_disjoint_and_complete(json_spec, n_shards):
    """`seqio.ShardInfo` divides a corpus of 3 files among fewer or more hosts without loss or repetition."""
    task = tasks.seqio_task(json_spec)
    parts = []
    for index in range(n_shards):
        dataset = task.get_dataset(
            sequence_length=None, split="train", shuffle=False, shard_info=seqio.ShardInfo(index, n_shards)
        )
        parts.append(texts(dataset))
    assert all(parts)
    assert sorted(sum(parts, [])) == sorted(text.encode() for text in DOCUMENTS)


def test_registered_tasks_encode_as_the_codec_does(json_spec):
    """A compressed task gives `codec.encode` plus 2, ending with 1, for each document in order."""
    names = tasks.register_tasks("small", json_spec, {"bytes": Bytes(), "pairs": Pairs()})
    assert names == ["small_raw", "small_bytes", "small_pairs"]
    for codec in (Bytes(), Pairs()):
        found = targets(seqio.get_mixture_or_task(f"small_{codec.name}"))
        assert found == [[*(codec.encode(document) + 2).tolist(), 1] for document in open_corpus(json_spec).documents()]


def test_every_registered_task_can_be_cached():
    """`seqio_cache_tasks` skips none of the tasks: raw, encoded by any codec."""
    tasks.register_tasks("cached", "installed_docs", {"pairs": Pairs()})
    for name in ("c4_raw", *(f"c4_{codec}" for codec in tasks.CODEC_NAMES), "cached_raw", "cached_pairs"):
        assert seqio.TaskRegistry.get(name).supports_caching


def test_a_cache_holds_ids_without_end_of_sequence(json_spec):
    """The cached part of a task is the text or the ids of the codec; only end-of-sequence is added at reading."""
    tasks.register_tasks("split", json_spec, {"pairs": Pairs()})
    expected = [(Pairs().encode(document) + 2).tolist() for document in open_corpus(json_spec).documents()]
    task = seqio.TaskRegistry.get("split_pairs")
    cached = task.preprocess_precache(task.source.get_dataset("train", shuffle=False))
    assert [example["targets"].tolist() for example in cached.as_numpy_iterator()] == expected
    read = task.preprocess_postcache(cached, sequence_length=None)
    assert [example["targets"].tolist() for example in read.as_numpy_iterator()] == [[*ids, 1] for ids in expected]


def test_a_task_that_must_be_cached_stays_so(json_spec):
    """Tasks that encode a task whose author requires a cache require one too, and have no second one."""
    raw = tasks.seqio_task(json_spec)
    steps = [*raw.preprocessors[:-1], seqio.CacheDatasetPlaceholder(required=True)]
    seqio_base.register("must_raw", source=raw.source, preprocessors=steps, output_features=raw.output_features)
    tasks.register_tasks("must", "seqio:must_raw", {"pairs": Pairs()})
    assert seqio.TaskRegistry.get("must_pairs").requires_caching


def test_source_shards_are_the_units_of_the_corpus(three_units):
    """A source lists one shard per unit, which holds the unit's documents; it pickles."""
    corpus = open_corpus(three_units)
    source = pickle.loads(pickle.dumps(tasks.seqio_task(three_units).source))
    units = corpus.units("train")
    assert len(source.list_shards("train")) == len(units) == 3
    for index, unit in enumerate(units):
        shard = source.get_dataset("train", shuffle=False, shard_info=seqio.ShardInfo(index, len(units)))
        assert texts(shard) == [document.text for document in corpus.read("train", unit)]


@pytest.mark.parametrize("spec", ["tfds:c4/en:3.1.0", "seqio:units_raw"])
def test_units_of_a_seqio_corpus_are_the_shards_of_its_source(three_units, c4, spec):
    """Units are complete, know their size, can be resumed within, and are read alike where a corpus was unpickled."""
    tasks.register_tasks("units", three_units, {})
    corpus = pickle.loads(pickle.dumps(open_corpus(spec)))
    assert corpus.describe("train") == open_corpus(spec).describe("train")
    units = corpus.units("train")
    assert len(units) == (2 if spec.startswith("tfds") else 3)
    assert all(unit.n_bytes for unit in units)
    size = sum(len(text.encode()) for text in DOCUMENTS)
    assert size <= corpus.estimated_bytes("train") <= 6 * size
    found = []
    for unit in units:
        documents = [document.text for document in corpus.read("train", pickle.loads(pickle.dumps(unit)))]
        assert [document.text for document in corpus.read("train", unit, skip=5)] == documents[5:]
        found += documents
    assert found == list(corpus.documents("train"))
    assert sorted(found) == sorted(text.encode() for text in DOCUMENTS)


def test_c4_task_reads_tfds(c4):
    """`c4_bytes` reads a TFDS data set in C4's schema and returns the bytes of every page."""
    found = targets(seqio.get_mixture_or_task("c4_bytes"))
    assert sorted(found) == sorted([*(byte + 2 for byte in text.encode()), 1] for text in DOCUMENTS)


def test_c4_task_gives_batches_of_a_feature_converter(c4):
    """A seqio user gets packed language-model batches from `c4_bytes`."""
    dataset = seqio.get_dataset(
        "c4_bytes",
        task_feature_lengths={"targets": 64},
        feature_converter=seqio.LMFeatureConverter(pack=True),
        dataset_split="train",
        shuffle=False,
        num_epochs=1,
    )
    batch = next(dataset.batch(4).as_numpy_iterator())
    assert batch["decoder_target_tokens"].shape == (4, 64)
    first = batch["decoder_target_tokens"][0]
    document = seqio.get_mixture_or_task("c4_bytes").output_features["targets"].vocabulary.decode_bytes(first)
    assert document.decode() in DOCUMENTS


def test_open_corpus_reads_tfds_in_shards(c4):
    """`tfds:` documents are those of the data set; shards are disjoint and complete."""
    corpus = open_corpus("tfds:c4/en:3.1.0")
    assert set(corpus.splits) == {"train", "validation"}
    whole = list(corpus.documents("train"))
    parts = [list(corpus.documents("train", shard=shard, n_shards=3)) for shard in range(3)]
    assert sorted(whole) == sorted(sum(parts, [])) == sorted(text.encode() for text in DOCUMENTS)
    assert sorted(corpus.documents("validation")) == sorted(text.encode() for text in DOCUMENTS[:5])
    assert corpus.describe("train") == open_corpus("tfds:c4/en:3.1.0").describe("train")


def test_seqio_spec_reads_registered_tasks(json_spec):
    """`seqio:TASK` returns the documents of a raw task, and decodes those of a compressed one."""
    tasks.register_tasks("again", json_spec, {"pairs": Pairs()})
    documents = list(open_corpus(json_spec).documents())
    assert list(open_corpus("seqio:again_raw").documents()) == documents
    assert list(open_corpus("seqio:again_pairs").documents()) == documents


def test_compress_reads_a_seqio_corpus(json_spec, tmp_path):
    """Any corpus of seqio can be compressed."""
    tasks.register_tasks("job", json_spec, {})
    store = compress(open_corpus("seqio:job_raw"), "train", Pairs(), tmp_path, n_shards=2)
    assert sorted(Pairs().decode(record.ids) for record in store.documents()) == sorted(
        text.encode() for text in DOCUMENTS
    )


def test_store_task_gives_the_store(json_spec, tmp_path):
    """A task of a finished store yields each document once for any sharding, and decodes with its codec."""
    store = compress(open_corpus(json_spec), "train", Pairs(), tmp_path, n_shards=2)
    task = tasks.register_store_task("a_store", tmp_path, codec=Pairs())
    whole = targets(task)
    assert whole == [[*(record.ids + 2).tolist(), 1] for record in store.documents()]
    parts = [targets(task, shard_info=seqio.ShardInfo(index, 3)) for index in range(3)]
    assert task.supports_caching and pickle.loads(pickle.dumps(task.source)).list_shards("train") == [f"{tmp_path}:0"]
    assert sorted(sum(parts, [])) == sorted(whole)
    assert task.output_features["targets"].vocabulary.decode(whole[0]).encode() == Pairs().decode(store.document(0).ids)
    with pytest.raises(InputError, match="made by codec pairs"):
        tasks.register_store_task("a_store", tmp_path, codec=Bytes())


def test_missing_codec_says_what_to_do(monkeypatch, tmp_path):
    """A C4 task without its codec names the variable, the folder's content and the command."""
    vocabulary = seqio.get_mixture_or_task("c4_eiw_b16_v65k").output_features["targets"].vocabulary
    monkeypatch.delenv("COMPRESSED_LM_CODECS", raising=False)
    with pytest.raises(
        InputError, match=r"codec eiw_b16_v65k is needed, and COMPRESSED_LM_CODECS is not set.*make demo"
    ):
        vocabulary.encode("a")
    (tmp_path / "gzip_v256").mkdir()
    monkeypatch.setenv("COMPRESSED_LM_CODECS", str(tmp_path))
    with pytest.raises(InputError, match="contains gzip_v256"):
        vocabulary.encode("a")


@pytest.mark.parametrize(
    "name, folder",
    [
        ("eiw_b16_v65k", "eiw_b16_v65k"),
        ("eiw_b16_v65k", "eiw-b16-v65536"),
        ("eiw_b16_v65k_word", "eiw-b16-v65536-word"),
        ("ac_v256", "ac-v256"),
        ("sentencepiece", "sentencepiece-v4096"),
    ],
)
def test_codecs_come_from_the_folder(monkeypatch, tmp_path, name, folder):
    """A task's codec is the sub-folder of COMPRESSED_LM_CODECS with its short or full name, and no other."""
    for other in (folder, "static-ac-v256", "eiw-b16-v256", "eiw-b24-v65536"):
        (tmp_path / other).mkdir(exist_ok=True)
    monkeypatch.setenv("COMPRESSED_LM_CODECS", str(tmp_path))
    monkeypatch.setattr(codecs, "load", lambda path: path.name)
    assert tasks.load_codec(name) == folder


@pytest.mark.parametrize(
    "spec, message",
    [
        ("tfds:c4/en:3.1.0", r"not prepared under .*TFDS_DATA_DIR.*tfds build"),
        ("tfds:no_such_data_set:1.0.0", r"no_such_data_set:1.0.0 was not found under"),
        ("tfds:c4/en", r"'c4/en' was given; NAME/CONFIG:VERSION was expected"),
        ("seqio:c4_byte", r"No seqio task named 'c4_byte' is registered. Did you mean c4_bytes"),
        ("seqio:no_such_module:task", r"module no_such_module, which could not be imported"),
    ],
)
def test_missing_seqio_corpora_say_what_to_do(spec, message, tmp_path):
    """A missing data set or task raises a short error, and nothing is downloaded."""
    with pytest.raises(InputError, match=message):
        list(open_corpus(spec, data_dir=str(tmp_path)).documents("train"))


def test_the_shipped_dictionary_gives_one_result_everywhere():
    """The host, several threads, the device and tf.data give the same ids."""
    codec = codecs.load("eiw16-en")
    documents = [document.encode() for document in DOCUMENTS] + [bytes(range(256)) * 3]
    ids = [codec.encode(document).tolist() for document in documents]
    assert [i.tolist() for i in codec.encode_batch(documents)] == ids
    assert [i.tolist() for i in codec.dictionary.encode_batch(documents, threads=3)] == ids
    assert [i.tolist() for i in device_dictionary.encode(codec.dictionary, documents)] == ids
    vocabulary = CodecVocabulary(codec)
    dataset = tf.data.Dataset.from_tensor_slices(documents).map(vocabulary.encode_tf, num_parallel_calls=4)
    assert [(i - 2).tolist() for i in dataset.as_numpy_iterator()] == ids
