"""Corpora by spec: `open_corpus("json:data/*.json.gz")`.

A spec is `SCHEME:REST` or `SCHEME(OPTION=VALUE,...):REST`; `SOURCES` lists the schemes. A PATH is the name of a file,
otherwise a glob. Files compressed by gzip, bzip2, xz or Zstandard are decompressed. `-` is the standard input.
"""

from compressed_lm import io
from compressed_lm.data.corpus import Corpus, Opener, Source, WithValidation
from compressed_lm.data.sources import (
    huggingface,
    installed_docs,
    json_lines,
    mixture,
    parquet,
    seqio_sources,
    source_spec,
    standard_input,
    store_documents,
    text_files,
)
from compressed_lm.errors import InputError
from compressed_lm.specs import did_you_mean

SOURCES: dict[str, Source] = {
    source.scheme: source
    for source in (
        installed_docs.SOURCE,
        json_lines.SOURCE,
        parquet.SOURCE,
        huggingface.SOURCE,
        text_files.SOURCE,
        store_documents.SOURCE,
        seqio_sources.TFDS,
        seqio_sources.SEQIO,
        mixture.SOURCE,
    )
}
"""Kinds of corpora by scheme."""


def open_corpus(spec: str, *, validation: str | None = None, data_dir: str | None = None) -> Corpus:
    """Returns the corpus of a spec.

    Args:
        spec: `SCHEME:REST`, see `SOURCES`.
        validation: spec of another corpus, whose validation split (or only split) is used for validation.
        data_dir: data folder of `tfds:`; by default the environment variable TFDS_DATA_DIR, then TFDS's default.

    Raises:
        InputError: the scheme is unknown, no file matches, or a store or data set cannot be opened.
    """
    if validation is not None:
        return WithValidation(open_corpus(spec, data_dir=data_dir), open_corpus(validation, data_dir=data_dir))
    scheme, options, rest = parts = source_spec.split("json:-" if spec == standard_input.NAME else spec)
    if io.scheme(spec) is not None and scheme not in SOURCES:
        io.any_path(spec, "The corpus")
    if scheme not in SOURCES or (":" in SOURCES[scheme].form) != bool(rest):
        raise InputError(_unknown(spec, scheme))
    source = SOURCES[scheme]
    opener = Opener(
        lambda part: open_corpus(part, data_dir=data_dir), data_dir, source_spec.parse_options(parts, source.options)
    )
    return source.open(rest, opener)


def _unknown(spec: str, scheme: str) -> str:
    if any(sign in scheme for sign in "/.*"):
        hint = f" For files write json:{spec} or text:{spec}."
    elif scheme in SOURCES:
        hint = f" Write {SOURCES[scheme].form}."
    else:
        hint = did_you_mean(scheme, SOURCES)
    known = ", ".join(source.form for source in SOURCES.values())
    return f"The corpus {spec!r} was given; expected one of {known}.{hint}"
