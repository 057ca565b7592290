"""Base class of the supported architectures: the fields of config.json and the names of tensors."""

import abc
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.huggingface.fields import ACTIVATIONS, SIZES

Allowed = Mapping[str, tuple[Any, ...]]

PLAIN: Allowed = dict(
    position=("rotary",),
    norm=("rms",),
    bias=("none",),
    gated_mlp=(True,),
    parallel_residual=(False,),
    qk_norm=(False,),
    qk_norm_over=("head",),
    norm_place=("before",),
    rotary_fraction=(1.0,),
    local_rope_theta=(0.0,),
    window=(0,),
    embed_scale=(1.0,),
    attention_scale=(0.0,),
    logit_softcap=(0.0,),
    activations=("dense",),
)
"""Values of the fields of TransformerConfig that an architecture can express unless it says otherwise in `allowed`."""

HEADS = ("lm_head.weight", "embed_out.weight")
"""Names of output layers; newer versions name every one lm_head."""


class Architecture(abc.ABC):
    """One architecture of `transformers`.

    Attributes:
        model_type: its name in config.json.
        class_name: its class for causal language models.
        sizes: their name of each of our sizes.
        act_field, act: name and default of the field of the activation.
        tied: default of tie_word_embeddings.
        allowed: values of fields of TransformerConfig that it can express; {} of the others: `PLAIN`.
        names: their module of each of our modules, with {} for the layer. Ours with the same module are stored in one
            tensor, one after the other along its outputs, in this order.
        prefix: start of the names that checkpoints of the model without its output layer leave out.
        alternating: ours in one tensor alternate head by head.
        inputs_first: matrices of layers are stored as [inputs, outputs], as ours are.
        scale_offset: our scale of a norm minus theirs.
    """

    model_type: ClassVar[str]
    class_name: ClassVar[str]
    sizes: ClassVar[Mapping[str, str]] = SIZES
    act_field: ClassVar[str] = "hidden_act"
    act: ClassVar[str] = "silu"
    tied: ClassVar[bool] = False
    allowed: ClassVar[Allowed] = {}
    names: ClassVar[Mapping[str, str]]
    prefix: ClassVar[str] = "model."
    alternating: ClassVar[bool] = False
    inputs_first: ClassVar[bool] = False
    scale_offset: ClassVar[float] = 0.0

    @abc.abstractmethod
    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields of TransformerConfig beside sizes, activation and tied embeddings.

        Args:
            values: content of config.json, whose fields have the right types and which has passed `unsupported`.
        """

    @abc.abstractmethod
    def unsupported(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Yields the features of a config.json that our Transformer does not support."""

    @abc.abstractmethod
    def fields(self, config: TransformerConfig, max_length: int) -> dict[str, Any]:
        """Returns the fields of config.json beside sizes, activation and tied embeddings."""

    def misfits(self, config: TransformerConfig) -> Iterator[str]:
        """Yields the reasons why a config cannot be expressed."""
        for field, values in {**PLAIN, **self.allowed}.items():
            if values and (found := getattr(config, field)) not in values:
                yield f"{field}={found} ({' or '.join(map(str, values))} is needed)"

    def activation(self, values: Mapping[str, Any]) -> str:
        """Returns their name of the activation."""
        return values.get(self.act_field) or self.act

    def activation_of(self, config: TransformerConfig) -> str:
        """Returns their name of a config's activation; the first of several names."""
        return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation)

    def stored_names(self, names: Iterable[str]) -> dict[str, str]:
        """Returns the name in a checkpoint by the usual name of each tensor; they differ if `prefix` is left out."""
        given = list(names)
        bare = not any(name.startswith(self.prefix) for name in given)
        return {self.prefix + name if bare and name not in HEADS else name: name for name in given}
