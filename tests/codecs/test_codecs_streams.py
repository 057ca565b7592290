"""Streams of documents with M1: the same ids for any batch size, full batch slots, little padding, bounded reading."""

import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.codecs import local_devices, window_encoder
from compressed_lm.codecs.device_m1 import DeviceM1, teacher_forced
from compressed_lm.codecs.local_devices import Work
from compressed_lm.codecs.window_rules import WindowRules
from compressed_lm.errors import CorruptStream, InputError

TEXT = b"The quick brown fox jumps over the lazy dog; it was a dark and stormy night, and 1,984 cats slept. " * 40
RULES = WindowRules(32, "node", "none", 1, 64)


@pytest.fixture
def rows():
    """Sets the rows per device for a test."""
    before = local_devices.rows_per_device()
    yield local_devices.use_rows_per_device
    local_devices.use_rows_per_device(before)


def random_texts(n, most, seed=0):
    random = np.random.default_rng(seed)
    sizes = (most * random.random(n) ** 2).astype(int)
    return [TEXT[i % 90 : i % 90 + size] for i, size in enumerate(sizes)]


def work_of(function):
    before = local_devices.work()
    return function(), local_devices.work() - before


def test_block_sizes_cover_rows_with_little_padding(rows):
    """Calls cover all rows; padding is at most 15% or what equal shares of the devices need; sizes are few."""
    for largest in (1, 7, 100, 256, 1000):
        rows(largest)
        seen = set()
        for n_rows in range(1, 3000):
            sizes = local_devices.block_sizes(n_rows)
            covered = 8 * sum(sizes)
            assert n_rows <= covered <= max(1.15 * n_rows, -(-n_rows // 8) * 8), (largest, n_rows, sizes)
            assert max(sizes) <= largest and len(sizes) <= n_rows // (8 * largest) + 6
            seen |= set(sizes)
        assert seen <= {*local_devices.SLOTS, largest}
    assert local_devices.block_sizes(0) == []


def test_rows_per_device_are_positive(rows):
    """Zero rows are refused with what was expected."""
    with pytest.raises(InputError, match="0 rows per device were requested; at least 1"):
        rows(0)


def test_maps_give_each_row_its_result(rows):
    """Rows come back in order, alone and as a stream, whatever the batch size; the work is counted."""
    rows(3)
    double = local_devices.map_over_local_devices(lambda constant, x: constant * x)
    values = np.arange(131, dtype=np.int32).reshape(-1, 1)
    (batch, work) = work_of(lambda: double(2, values))
    assert (batch == 2 * values).all()
    assert work == Work(steps=6, rows=144, padding=13)
    assert [row.tolist() for row in double.stream(2, iter(values))] == (2 * values).tolist()
    assert list(double.stream(2, iter([]))) == []


def test_streams_of_rows_read_ahead_by_a_few_blocks(rows):
    """Before the first result at most three blocks are read, so that memory is bounded."""
    rows(2)
    taken = []
    double = local_devices.map_over_local_devices(lambda constant, x: constant * x)
    stream = double.stream(2, (taken.append(1) or np.ones(1, np.int32) for _ in range(1000)))
    assert next(stream).tolist() == [2] and len(taken) == 3 * 2 * 8


@pytest.mark.slow("compiles M1 for several numbers of rows")
@pytest.mark.parametrize("spec", ["ac(v=256)", "eiw(b=32,v=256)", "eiw(align=word,b=24,v=4096)"])
def test_any_batch_size_gives_the_same_ids(m1, devices, rows, monkeypatch, spec):
    """Ids do not depend on rows per device, on the calls that a text is divided into, or on the other documents."""
    codec = codecs.create(spec, m1=m1)
    documents = [*random_texts(60, 2500), b"", TEXT * 3, b"", b"x"]
    wanted = [ids.tolist() for ids in codec.encode_batch(documents)]
    assert codec.decode_batch([np.array(ids) for ids in wanted]) == documents
    monkeypatch.setattr(window_encoder, "WORTH_COMPILING", 100)
    for n_rows in (1, 3):
        rows(n_rows)
        assert [ids.tolist() for ids in codec.encode_stream(iter(documents))] == wanted
    monkeypatch.setattr(window_encoder, "READ_AHEAD", 200)
    monkeypatch.setattr(window_encoder, "PIECE", 200)
    assert [ids.tolist() for ids in codec.encode_stream(iter(documents))] == wanted


@pytest.mark.slow("compiles M1 for several numbers of rows")
@pytest.mark.parametrize(
    "rules",
    [
        WindowRules(24, "node", "word", 2, 64),
        WindowRules(32, "node", "none", 0, 64),
        WindowRules(16, "delay", "none", 1, 64),
        WindowRules(64, "paper", "none", 1, 64),
    ],
)
def test_segments_that_follow_each_other_in_a_slot_are_independent(m1, rows, rules):
    """A segment's codes do not depend on the segments before it in its slot, for all fills and resets."""
    rows(1)
    segments = random_texts(40, 600)
    several = list(DeviceM1(m1.params, m1.config).encode_windows(iter(segments), rules))
    for i in (0, 7, 39):
        (alone,) = DeviceM1(m1.params, m1.config).encode_windows([segments[i]], rules)
        assert np.array_equal(alone, several[i])


@pytest.mark.slow("encodes with many slots")
def test_slots_stay_full(m1, rows):
    """Slots take the next segment without a lost step: a segment costs its bytes and its windows, and no more.

    On a long stream the slots of 8 devices idle for less than 15% of the steps, though segments differ in length.
    """
    rows(1)
    segments = random_texts(200, 1000)
    codes, work = work_of(lambda: list(DeviceM1(m1.params, m1.config).encode_windows(iter(segments), RULES)))
    busy = sum(map(len, segments)) + sum(map(len, codes))
    assert work.rows - work.padding == busy and work.rows == 8 * work.steps
    assert work.padding_share < 0.15


def test_windows_are_yielded_in_order_with_bounded_reading(m1, rows, monkeypatch):
    """A long first segment does not let the encoder read more than the stated amount."""
    rows(1)
    monkeypatch.setattr(window_encoder, "READ_AHEAD", 1000)
    taken = []

    def segments():
        for text in [TEXT[:3000], *[TEXT[:100]] * 300, b"", b""]:
            taken.append(len(text))
            yield text

    stream = DeviceM1(m1.params, m1.config).encode_windows(segments(), RULES)
    assert not taken
    next(stream)
    assert sum(taken) + 64 * len(taken) <= 8 * 1000 + 164
    rest = list(stream)
    assert len(rest) == 302 and not len(rest[-1]) and len({codes.tobytes() for codes in rest[:-2]}) == 1


def test_a_failing_source_raises_after_the_documents_before_it(m1, engine, rows):
    """An error of the input passes through, and the stream can be closed early."""
    rows(1)

    def documents():
        yield from [TEXT[:50]] * 3
        raise OSError("the disk is gone")

    for spec in ("ac(v=256)", "eiw(b=32,v=256)"):
        codec = codecs.create(spec, m1=m1)
        with pytest.raises(OSError, match="the disk is gone"):
            list(codec.encode_stream(documents()))
        stream = codec.encode_stream([TEXT[:50]] * 3)
        next(stream)
        stream.close()


def test_pmap_and_shard_map_give_the_same_bits(m1):
    """A shard_map over a mesh of the local devices computes the tables that `LocalMap` computes, bit for bit."""
    import jax
    from jax.sharding import Mesh, PartitionSpec

    text = TEXT[: 16 * 64 - 1]
    symbols = np.append(np.frombuffer(text, np.uint8), 256).reshape(16, 64).astype(np.int32)
    mesh = Mesh(np.array(jax.local_devices()), ("devices",))
    rows = PartitionSpec("devices")
    sharded = jax.jit(
        jax.shard_map(
            lambda params, x: teacher_forced(m1.config, params, x),
            mesh=mesh,
            in_specs=(PartitionSpec(), rows),
            out_specs=rows,
            check_vma=False,
        )
    )
    ((_, entries),) = DeviceM1(m1.params, m1.config).entries([text])
    assert np.array_equal(np.asarray(sharded(m1.params, symbols)).reshape(-1, 2), entries)


def test_cached_steps_and_one_pass_give_the_same_entries(m1, engine):
    """Table entries from cached steps, as in a decoder, equal those of the teacher-forced pass that encodes."""
    texts = [TEXT[:1023], b"", TEXT[5:70]]
    pairs = zip(m1.engine.entries(texts), m1.engine.entries(texts, cached=True), strict=True)
    for text, ((of_one, once), (of_other, step_by_step)) in zip(texts, pairs, strict=True):
        assert of_one == of_other == text and len(once) == len(text) + 1
        assert np.array_equal(once, step_by_step)


def test_known_documents_are_checked_as_by_decoding(m1, engine, rows):
    """`decode_known` returns the documents; for changed ids or other documents it is what `decode` returns."""
    rows(4)
    codec = codecs.create("ac(v=256)", m1=m1)
    documents = [b"", TEXT[:100], TEXT[:700], (TEXT * 3)[:10_300]]
    ids = codec.encode_batch(documents)
    assert codec.decode_known(ids, documents) == documents
    assert codec.decode_known(ids[:3], [b"x", TEXT[:101], TEXT[1:701]]) == documents[:3]
    for i in range(1, 4):
        changed = ids[i].copy()
        changed[len(changed) // 2] ^= 1
        try:
            expected = codec.decode(changed)
        except CorruptStream:
            with pytest.raises(CorruptStream):
                codec.decode_known([changed], [documents[i]])
        else:
            assert codec.decode_known([changed], [documents[i]]) == [expected] != [documents[i]]


def test_known_documents_of_codecs_without_m1():
    """Codecs without M1 decode the ids; another number of documents is refused."""
    codec = codecs.create("gzip(v=256)")
    ids = codec.encode_batch([b"a", b"b"])
    assert codec.decode_known(ids, [b"a", b"other"]) == [b"a", b"b"]
    with pytest.raises(InputError, match="2 sequences of ids of 1 documents; as many were expected"):
        codec.decode_known(ids, [b"a"])
