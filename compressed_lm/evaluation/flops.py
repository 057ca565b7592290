"""FLOPs per byte of raw text, as in Lester et al. 2024 (section 3.8), with softmax, and as run."""

import dataclasses
from typing import TYPE_CHECKING

from compressed_lm.data.store import TokenStore
from compressed_lm.models import TransformerConfig, flops_per_token

if TYPE_CHECKING:  # training evaluates without the dependencies of codecs
    from compressed_lm.codecs.protocol import Codec


@dataclasses.dataclass(frozen=True)
class FlopsPerByte:
    """Forward FLOPs per byte of text.

    Attributes:
        paper: 2 N_nonembed / bytes per token, plus 2 N of M1 for every codec made with an M1, even if M1 is compiled to
            a dictionary.
        softmax: the same plus 2 V D per token for the output layer.
        runtime: 2 N_nonembed / bytes per token plus the actual FLOPs of the codec, which are 0 if M1 is compiled to a
            dictionary.
    """

    paper: float
    softmax: float
    runtime: float


def flops_per_byte(model_config: TransformerConfig, codec: "Codec", store: TokenStore) -> FlopsPerByte:
    """Returns the cost of a model over a codec, at the bytes per token of a store (end-of-document included)."""
    tokens_per_byte = (store.n_tokens + store.n_documents) / max(store.n_bytes, 1)
    model, with_softmax = (flops_per_token(model_config, softmax=s) * tokens_per_byte for s in (False, True))
    return FlopsPerByte(
        model + codec.m1_flops_per_byte, with_softmax + codec.m1_flops_per_byte, model + codec.flops_per_byte
    )
