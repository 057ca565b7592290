"""FLOPs per byte of raw text, in the accounting of Lester et al. 2024 (section 3.8) and with what it leaves out."""

import dataclasses
from typing import TYPE_CHECKING

from compressed_lm.data.store import TokenStore
from compressed_lm.models import TransformerConfig, flops_per_token

if TYPE_CHECKING:  # training evaluates without the packages that codecs need
    from compressed_lm.codecs.protocol import Codec


@dataclasses.dataclass(frozen=True)
class FlopsPerByte:
    """Forward FLOPs for each byte of text.

    Attributes:
        paper: 2 N_nonembed / bytes per token, plus 2 N of M1 for every codec that was made with one, whether or not M1
            still runs.
        softmax: the same with the output layer's 2 V D a token.
        runtime: 2 N_nonembed / bytes per token plus what the codec really spends, which is 0 where M1 was compiled to a
            dictionary.
    """

    paper: float
    softmax: float
    runtime: float


def flops_per_byte(model_config: TransformerConfig, codec: "Codec", store: TokenStore) -> FlopsPerByte:
    """Cost of a model over a codec, at the bytes per token of a store (end-of-document tokens included)."""
    tokens_per_byte = (store.n_tokens + store.n_documents) / max(store.n_bytes, 1)
    model, with_softmax = (flops_per_token(model_config, softmax=s) * tokens_per_byte for s in (False, True))
    return FlopsPerByte(
        model + codec.m1_flops_per_byte, with_softmax + codec.m1_flops_per_byte, model + codec.flops_per_byte
    )
