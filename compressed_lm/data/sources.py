"""`open_corpus(spec)`: documents from wherever they are.

installed_docs           the documentation of the installed dependencies (the default; offline)
json:PATH                JSON lines with a field `text`, as C4 is distributed
text:PATH                one file a document
store:DIR                a token store of the bytes codec
tfds:c4/en:3.1.0         a prepared TensorFlow Datasets data set with a feature `text`
seqio:TASK               a registered seqio task; seqio:MODULE:TASK imports the module that registers it first
mix:8*SPEC,SPEC          the training documents of several of these, one of them eight times over

PATH is a file of this very name, else a glob. What is compressed by gzip, bzip2 or xz is decompressed.
"""

from collections.abc import Iterator

from compressed_lm import io
from compressed_lm.data import installed_docs, mixture
from compressed_lm.data.corpus import Corpus, WithValidation
from compressed_lm.data.file_sources import JsonLines, TextFiles
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.specs import did_you_mean

SCHEMES = ("installed_docs", "json", "text", "store", "tfds", "seqio", "mix")


class InstalledDocs(Corpus):
    """See `installed_docs`: whole packages are held out for validation."""

    spec = "installed_docs"
    splits = ("train", "validation")

    def estimated_bytes(self, split: str) -> int:
        return sum(map(len, installed_docs.documents()[split]))

    def _documents(self, split: str, shard: int, n_shards: int) -> Iterator[bytes]:
        yield from installed_docs.documents()[split][shard::n_shards]

    def _fingerprint(self, split: str) -> str:
        return installed_docs.fingerprint()


class StoreDocuments(Corpus):
    """The documents of a token store whose tokens are their bytes."""

    splits = ("train",)

    def __init__(self, directory: str):
        self.spec = f"store:{directory}"
        io.local_path(directory, f"In the corpus {self.spec},")
        self._store = TokenStore.open(directory)
        if self._store.codec_spec != "bytes":
            raise InputError(
                f"The corpus {self.spec} is a token store of codec {self._store.codec_spec}, and only a store of the "
                "codec `bytes` can be read as documents. Name the corpus that this store was made from instead; its "
                "manifest tells which."
            )

    def estimated_bytes(self, split: str) -> int:
        return self._store.n_bytes

    def _documents(self, split: str, shard: int, n_shards: int) -> Iterator[bytes]:
        for index, record in enumerate(self._store.documents()):
            if index % n_shards == shard:
                yield record.ids.astype("u1").tobytes()

    def _fingerprint(self, split: str) -> str:
        return self._store.fingerprint


def open_corpus(spec: str, *, validation: str | None = None, data_dir: str | None = None) -> Corpus:
    """The corpus that a spec names.

    Args:
      spec: one of the forms in this module's docstring.
      validation: the spec of another corpus, whose validation split (or only split) becomes this one's.
      data_dir: where `tfds:` finds its data; by default the environment's TFDS_DATA_DIR, then TFDS's own default.

    Raises:
      InputError: the scheme is unknown, no file matches, or a store or data set cannot be opened.
    """
    if validation is not None:
        return WithValidation(open_corpus(spec, data_dir=data_dir), open_corpus(validation, data_dir=data_dir))
    scheme, _, rest = spec.partition(":")
    if io.scheme(spec) is not None and scheme not in SCHEMES:
        io.local_path(spec, "The corpus")
    if scheme not in SCHEMES or (scheme == "installed_docs") == bool(rest):
        raise InputError(_unknown(spec, scheme))
    match scheme:
        case "installed_docs":
            return InstalledDocs()
        case "json":
            return JsonLines(rest)
        case "text":
            return TextFiles(rest)
        case "store":
            return StoreDocuments(rest)
        case "mix":
            parts = mixture.parse(rest)
            if any(weight < 1 for weight, _ in parts):
                raise InputError(
                    f"The mixture {spec!r} was given; expected specs joined by commas, each with an optional weight of "
                    "at least 1, such as mix:8*json:web/*.gz,json:books/*.gz."
                )
            return mixture.Mixture([(weight, open_corpus(part, data_dir=data_dir)) for weight, part in parts])
    io.local_path(rest, f"In the corpus {spec},")
    try:
        from compressed_lm.data import seqio_corpus  # TensorFlow, so only on demand
    except ImportError as error:
        raise InputError(
            f"The corpus {spec} is read through seqio and TensorFlow, which could not be imported ({error}). Install "
            "them with `pip install 'compressed_lm[corpora]'`, or name a corpus of files (json:PATH, text:PATH)."
        ) from error
    return seqio_corpus.open_tfds(rest, data_dir=data_dir) if scheme == "tfds" else seqio_corpus.open_task(rest)


def _unknown(spec: str, scheme: str) -> str:
    known = "installed_docs, json:PATH, text:PATH, store:DIR, tfds:NAME, seqio:TASK, mix:SPEC,SPEC"
    if any(sign in scheme for sign in "/.*"):
        hint = f" For files write json:{spec} or text:{spec}."
    else:
        hint = did_you_mean(scheme, SCHEMES)
    return f"The corpus {spec!r} was given, and a corpus is one of {known}.{hint}"
