"""Conversion between a model's tokenizer files and codecs."""

import json
import os

from compressed_lm.codecs import tokenizers_codec
from compressed_lm.codecs.protocol import Codec
from compressed_lm.codecs.sentencepiece_codec import SentencePiece
from compressed_lm.codecs.tokenizers_codec import ByteLevelBPE, Tokenizers
from compressed_lm.errors import InputError
from compressed_lm.io import inside, local_path

SENTENCEPIECE_FILE = "tokenizer.model"


def read_tokenizer(folder: str | os.PathLike, *, eod: int | None = None) -> Codec | None:
    """Returns the codec of the tokenizer in a model's folder; None if there is none.

    Args:
        folder: folder with tokenizer.json or tokenizer.model; a byte-level tokenizer.json takes precedence.
        eod: id of end-of-document for a tokenizer.json; a tokenizer.model has its own.

    Raises:
        InputError: the tokenizer cannot be made lossless, or the end-of-document id is unknown.
    """
    folder = local_path(folder, "The folder of the tokenizer")
    table, model = inside(folder, tokenizers_codec.FILE), inside(folder, SENTENCEPIECE_FILE)
    if table.exists() and eod is None and not model.exists():
        raise InputError(
            f"{folder} does not define the end-of-text id (eos_token_id in config.json). Give it: --eod ID."
        )
    if table.exists() and eod is not None:
        try:
            return Tokenizers(v=0, eod=eod, tokenizer=table.read_bytes())
        except InputError:
            if not model.exists():
                raise
    if not model.exists():
        return None
    codec = SentencePiece.of_model(model.read_bytes())
    if eod not in (None, codec.eod_id):
        raise InputError(
            f"{model} has the end-of-text id {codec.eod_id}, and {eod} was requested (--eod, or eos_token_id in "
            f"config.json). Use the id of the file: --eod {codec.eod_id}."
        )
    return codec


def tokenizer_files(codec: Codec) -> dict[str, bytes] | None:
    """Returns the files that `transformers` needs for a codec, by name; None if it has no such tokenizer."""
    settings: dict[str, object]
    if isinstance(codec, ByteLevelBPE):
        files, settings = codec.files(), dict(tokenizer_class="PreTrainedTokenizerFast")
    elif isinstance(codec, SentencePiece) and codec.eod_id < codec.vocab_size and codec.is_bpe:
        files = {SENTENCEPIECE_FILE: codec.files()["sentencepiece.model"]}
        settings = dict(tokenizer_class="LlamaTokenizer", add_bos_token=False, add_eos_token=False, legacy=False)
        settings |= dict(add_prefix_space=False)  # unlike Llama, the codec does not put a space before every text
    else:
        return None
    settings |= dict(eos_token=codec.token(codec.eod_id))
    return files | {"tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode()}
