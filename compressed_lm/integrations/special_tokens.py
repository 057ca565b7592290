"""Special tokens of a codec in transformers: end of document, beginning of text and padding."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from compressed_lm.codecs.protocol import Codec, eod_id
from compressed_lm.errors import InputError

END, PADDING = "<|endoftext|>", "<|pad|>"


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Special tokens of a codec, and their ids.

    Attributes:
        eos: token of the end of a document, which is also the beginning of a text: models are trained on documents
            that follow one another, so the end of one precedes the next.
        eos_id: `codecs.eod_id`.
        pad: token of padding. It is `eos` if there is no id for it.
        pad_id: the id after the end of a document, if every model of this codec has it; otherwise `eos_id`.
    """

    eos: str
    eos_id: int
    pad: str
    pad_id: int

    @classmethod
    def of(cls, codec: Codec) -> "SpecialTokens":
        """Returns the special tokens of a codec.

        A model of a codec with V ids has an embedding of V + 1 rows, rounded up to a multiple of 8
        (`models.model_vocab_size`). Padding gets the row after the end of a document if there is one. Where that end is
        an id of the codec itself, the model may have been trained elsewhere, without such a row.
        """
        end, v = eod_id(codec), codec.vocab_size
        if end < v:
            name = codec.token(end) if hasattr(codec, "token") else END
            return cls(name, end, name, end)
        return cls(END, end, PADDING, end + 1) if (v + 1) % 8 else cls(END, end, END, end)

    @property
    def by_id(self) -> dict[int, str]:
        """The tokens by id, in increasing order."""
        return {self.eos_id: self.eos, self.pad_id: self.pad}

    @property
    def names(self) -> dict[str, str]:
        """The tokens by their names in transformers."""
        return {"bos_token": self.eos, "eos_token": self.eos, "pad_token": self.pad}


def check_end(codec: Codec, special: Mapping[str, Any] | None) -> None:
    """Raises InputError if an `eos_token_id` (an id or a list of them) is requested that the codec does not have."""
    given = (special or {}).get("eos_token_id")
    if given is not None and eod_id(codec) not in (given if isinstance(given, list | tuple) else [given]):
        raise InputError(
            f"eos_token_id = {given} was requested for {codec.spec}, whose end of a document is {eod_id(codec)}. Leave "
            "it out, or give the codec that the model was trained with."
        )


def settings(codec: Codec) -> dict[str, Any]:
    """Returns the settings of a tokenizer_config.json that all tokenizers of this package share."""
    return {
        **SpecialTokens.of(codec).names,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        # As in the codec, text that looks like a special token is text.
        "split_special_tokens": True,
    }
