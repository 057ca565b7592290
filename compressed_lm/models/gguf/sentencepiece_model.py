"""Content of a tokenizer.model for SentencePiece in a GGUF file (`tokenizer.ggml.model` = llama).

A tokenizer.model, and not a tokenizer.json with merges: the file has SentencePiece's own scores and types, so this is
the model's own tokenizer, while merges would have to be guessed from the scores.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from compressed_lm.errors import InputError
from compressed_lm.models.gguf.vocabulary import TokenType, Vocabulary

_SPACE = "\u2581"
"""Character that SentencePiece uses for a space."""


def protocol() -> Any:
    """Returns SentencePiece's module of protocol buffers.

    Raises:
        InputError: the package protobuf is missing, or too old for the installed sentencepiece.
    """
    try:
        return importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    except Exception as error:  # ImportError, or protobuf's VersionError
        raise InputError(
            f"The tokenizer of a GGUF file needs the package protobuf, which cannot be used ({error}). Install it: pip "
            "install --upgrade protobuf."
        ) from error


def model_proto(vocabulary: Vocabulary, special: Mapping[str, int], *, add_space_prefix: bool) -> bytes:
    """Returns the content of a tokenizer.model: BPE with byte fallback, without normalisation.

    Args:
        vocabulary: tokens, with scores and types.
        special: id of bos, eos, unk and pad.
        add_space_prefix: whether a space is put before each text.

    Raises:
        InputError: the package protobuf cannot be used, or there is no unknown token.
    """
    model = protocol().ModelProto()
    kinds = list(vocabulary.kinds)
    if TokenType.UNKNOWN not in kinds:  # Gemma's files call it a control token
        if "unk" not in special:
            raise InputError("The GGUF file has no unknown token, which SentencePiece needs. Copy it from its source.")
        kinds[special["unk"]] = TokenType.UNKNOWN
    for token, kind, score in zip(vocabulary.tokens, kinds, vocabulary.scores.tolist(), strict=True):
        # llama.cpp stores user-defined tokens, such as runs of spaces, as plain text.
        piece = token.replace(" ", _SPACE) if kind == TokenType.USER_DEFINED else token
        model.pieces.add(piece=piece, score=score, type=int(kind))
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = type(model.trainer_spec).BPE
    trainer.vocab_size, trainer.byte_fallback = len(kinds), True
    for name in ("bos", "eos", "unk", "pad"):
        setattr(trainer, f"{name}_id", special.get(name, kinds.index(TokenType.UNKNOWN) if name == "unk" else -1))
        if name in special:
            setattr(trainer, f"{name}_piece", vocabulary.tokens[special[name]])
    if "unk" not in special:
        trainer.unk_piece = vocabulary.tokens[kinds.index(TokenType.UNKNOWN)]
    normalizer.name, normalizer.add_dummy_prefix = "identity", add_space_prefix
    normalizer.remove_extra_whitespaces, normalizer.escape_whitespaces = False, True
    return model.SerializeToString()
