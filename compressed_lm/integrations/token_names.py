"""Names of a codec's ids, as transformers shows tokens."""

import numpy as np

from compressed_lm.codecs.pieces_codec import PiecesCodec
from compressed_lm.codecs.protocol import Codec
from compressed_lm.integrations.longest_match_json import symbols
from compressed_lm.integrations.special_tokens import SpecialTokens


def token_names(codec: Codec) -> list[str]:
    """Returns a different name for each id 0..V-1.

    A name is the token's name in the codec's own vocabulary file, or its bytes in the characters of byte-level
    vocabularies (`pieces`: the bytes of folded text, in which A, B and C are markers). Ids that are not strings, and
    all ids if two have the same bytes, are named by their number, such as `<|17|>`.
    """
    names: list[str | None]
    if hasattr(codec, "token"):
        names = [codec.token(i) for i in range(codec.vocab_size)]
    elif isinstance(codec, PiecesCodec):
        names = [symbols(string) for string in codec.pieces.strings]
    elif codec.token_byte_lengths(np.zeros(1, np.int32)) is not None:
        names = [symbols(text) for text in codec.decode_batch(list(np.arange(codec.vocab_size)[:, None]))]
    else:
        names = [None] * codec.vocab_size
    tokens = SpecialTokens.of(codec).by_id
    clash = {name for i, name in tokens.items() if i >= codec.vocab_size} & set(names)
    if clash or len({name for name in names if name}) < sum(name is not None for name in names):
        names = [None] * codec.vocab_size
    return [name or f"<|{i}|>" for i, name in enumerate(names)]
