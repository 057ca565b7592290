"""Windows and rotary frequencies of layers: what differs between layers in their attention to the past."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.positions import rotary_frequencies

UNLIMITED = 2**31 - 1
"""Window of a layer without one, where windows are arrays."""

Window = int | Int[Array, "*layers"]


class Span(NamedTuple):
    """What differs between layers in their attention to the past.

    Attributes:
        window: number of tokens that a token attends to, its own included; 0 for all before it.
        frequencies: of rotary positions, or None without them.
    """

    window: Window
    frequencies: Float[Array, " pairs"] | None


def _span(config: TransformerConfig, *, local: bool) -> Span:
    """Returns the span of layers with (`local`) or without the config's window."""
    frequencies = rotary_frequencies(config, local=local) if config.position == "rotary" else None
    return Span(config.window if local else 0, frequencies)


def spans_of(config: TransformerConfig) -> list[Span | None]:
    """Returns the span of each layer; None where all layers have the same, which they then make themselves."""
    local_layers = config.local_layers
    if len(set(local_layers)) == 1:
        return [None] * len(local_layers)
    return [_span(config, local=local) for local in local_layers]


def stacked_spans(config: TransformerConfig) -> Span | None:
    """Returns the spans of all layers, stacked for a loop over layers; None as for `spans_of`."""
    spans = [span for span in spans_of(config) if span is not None]
    if not spans:
        return None
    windows = jnp.array([span.window or UNLIMITED for span in spans], jnp.int32)
    frequencies = [span.frequencies for span in spans if span.frequencies is not None]
    return Span(windows, jnp.stack(frequencies) if frequencies else None)


def unlimited(window: Window) -> bool:
    """Returns whether it is known at compile time that a layer has no window."""
    return isinstance(window, int) and window == 0
