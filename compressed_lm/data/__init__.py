"""Corpora, the compression job and token stores.

    corpus = sources.open_corpus("json:data/*.json.gz")
    store = job.compress(corpus, "train", codec, "stores/train")
    rows = store.rows(128)  # rows[i] is int32[128]

Only `tasks`, `vocabulary` and `seqio_corpus` import TensorFlow; `sources` imports them only for `tfds:` and `seqio:`.
"""
