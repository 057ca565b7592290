"""Sources of seqio corpora; seqio and TensorFlow are imported when a corpus is opened."""

from types import ModuleType

from compressed_lm import io
from compressed_lm.data.corpus import Corpus, Opener, Source
from compressed_lm.errors import InputError


def _seqio_corpus(spec: str, rest: str) -> ModuleType:
    """Imports `seqio_corpus`. Raises InputError if seqio is not installed, or the spec has an unsupported path."""
    io.local_path(rest, f"In the corpus {spec},")
    try:
        from compressed_lm.data.sources import seqio_corpus
    except ImportError as error:
        raise InputError(
            f"The corpus {spec} needs seqio and TensorFlow, which could not be imported ({error}). Install them with "
            "`pip install 'compressed_lm[corpora]'`, or name a corpus of files (json:PATH, text:PATH)."
        ) from error
    return seqio_corpus


def _open_tfds(rest: str, opener: Opener) -> Corpus:
    return _seqio_corpus(f"tfds:{rest}", rest).open_tfds(rest, data_dir=opener.data_dir)


def _open_task(rest: str, opener: Opener) -> Corpus:
    return _seqio_corpus(f"seqio:{rest}", rest).open_task(rest)


TFDS = Source("tfds", "tfds:c4/en:3.1.0", "a prepared TensorFlow Datasets data set with a feature `text`", _open_tfds)
SEQIO = Source("seqio", "seqio:TASK", "a registered seqio task; seqio:MODULE:TASK imports the module first", _open_task)
