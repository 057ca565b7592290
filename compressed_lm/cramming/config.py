"""Configuration of cramming."""

import dataclasses
from typing import Any

import jax
import optax

from compressed_lm import settings, weights
from compressed_lm.errors import InputError
from compressed_lm.settings import setting

METHODS = ("full", "progressive")
SCHEDULES = ("constant", "linear", "cosine")
INITS = ("normal", "uniform")
PROJECTIONS = ("signs", "learned", "shared")
RECIPES: dict[str, dict[str, Any]] = {
    "kuratov2025": {},
    "tarasov2026": dict(
        method="progressive",
        crop=True,
        steps=10_000,
        patience=1000,
        learning_rate=0.1,
        schedule="cosine",
        warmup_steps=100,
        final_rate=0.001,
        init="uniform",
        init_scale=0.02,
    ),
}
"""Settings that differ from the defaults: those of papers/001 section 2, and of progressive cramming (section 9)."""


@dataclasses.dataclass(frozen=True)
class CramConfig:
    """Settings of cramming; the defaults are those of Kuratov et al. 2025 (papers/001 section 2).

    Attributes:
        n_vectors: K, input vectors per text.
        method: "full" optimises the whole text; "progressive" optimises its first tokens, then gradually more
            (papers/001 section 9).
        grow: tokens that a progressive target is longer than the longest exact prefix.
        crop: compute only the target and not the whole text, in progressive cramming: a small part of the work for long
            texts. Tokens after the target are then not measured: a prefix that is exact beyond it is found in the next
            steps, and of equal scores the first is kept.
        steps: largest number of measurements of a text, with an update between consecutive ones.
        patience: steps without a better score after which a text is stopped. The score is the number of right tokens in
            full cramming, and the length of the longest exact prefix in progressive cramming.
        margin: a token is right if its logit exceeds all others by more than this. With 0 it is right if it is the most
            likely one, which rounding on another machine may change; 0.1 is robust to rounding.
        learning_rate, b1, b2, eps, weight_decay: hyper-parameters of AdamW.
        schedule: learning rate schedule over `steps`, after a linear warm-up of `warmup_steps`: "constant", "linear" or
            "cosine", the last two down to `final_rate`.
        warmup_steps: steps of the warm-up.
        final_rate: learning rate at the end of a linear or cosine schedule.
        first_weight: weight of the first two tokens of a text in the loss; 3 in papers/001 section 9.
        init: "normal" (times the standard deviation of the model's embeddings) or "uniform" (in -1 to 1).
        init_scale: factor of the initial numbers; "uniform" with 0.02 is the one of papers/001 section 9.
        dimensions: M, optimised numbers per vector, which `projection` maps to d_model; 0 for d_model numbers without
            such a map.
        projection: "signs", a fixed matrix of random signs; "learned", a matrix and a bias that are optimised with the
            numbers of each text; or "shared", one such map for all texts of a batch (papers/001 section 9, M = 256).
            Learned maps only restrict the optimisation: the result of a text is its vectors of d_model numbers.
        projection_seed: seed of the random signs.
        format: representation of the vectors, such as "dense(dtype=bfloat16)" or "int(b=4)" (`compressed_lm.weights`).
            The quantised vectors are optimised, with the gradient rule of the format.
        seed: seed of the initial vectors, together with the text.
    """

    n_vectors: int = setting(1, low=1)
    method: str = setting("full", choices=METHODS)
    grow: int = setting(1, low=1)
    crop: bool = False
    steps: int = setting(5000, low=1)
    patience: int = setting(2000, low=1)
    margin: float = setting(0.0, low=0)
    learning_rate: float = setting(0.01, above=0)
    b1: float = setting(0.9, low=0, below=1)
    b2: float = setting(0.9, low=0, below=1)
    eps: float = setting(1e-8, above=0)
    weight_decay: float = setting(0.01, low=0)
    schedule: str = setting("constant", choices=SCHEDULES)
    warmup_steps: int = setting(0, low=0)
    final_rate: float = setting(0.0, low=0)
    first_weight: float = setting(1.0, above=0)
    init: str = setting("normal", choices=INITS)
    init_scale: float = setting(1.0, above=0)
    dimensions: int = setting(0, low=0)
    projection: str = setting("signs", choices=PROJECTIONS)
    projection_seed: int = setting(0, low=0)
    format: str = "dense"
    seed: int = setting(0, low=0)

    def __post_init__(self) -> None:
        settings.check(self)
        if self.warmup_steps >= self.steps:
            raise InputError(
                f"warmup_steps={self.warmup_steps} was given for steps={self.steps}; expected fewer than all steps. If "
                "it is that of a recipe, give a smaller one (--warmup_steps), too."
            )
        if self.final_rate > self.learning_rate:
            raise InputError(
                f"final_rate={self.final_rate} was given for learning_rate={self.learning_rate}; expected at most the "
                "learning rate. If it is that of a recipe, give a smaller one (--final_rate), too."
            )
        if self.crop and self.method != "progressive":
            raise InputError(
                f"crop was given with method={self.method!r}, which always computes the whole text; use it with "
                "method='progressive'."
            )
        form = storable(self.format)
        if self.projection != "signs" and (not self.dimensions or str(form) != "dense"):
            raise InputError(
                f"projection={self.projection!r} was given with dimensions={self.dimensions} and format={form}; "
                "expected at least one dimension and the format dense: the vectors can be rounded afterwards."
            )
        object.__setattr__(self, "format", str(form))  # the canonical spec, so that equal settings compare equal

    def optimizer(self) -> optax.GradientTransformation:
        """Returns AdamW with the learning rate's schedule."""
        left = self.steps - self.warmup_steps
        after = {
            "constant": lambda: optax.constant_schedule(self.learning_rate),
            "linear": lambda: optax.linear_schedule(self.learning_rate, self.final_rate, left),
            "cosine": lambda: optax.cosine_decay_schedule(
                self.learning_rate, left, alpha=self.final_rate / self.learning_rate
            ),
        }[self.schedule]()
        rise = optax.linear_schedule(0.0, self.learning_rate, max(self.warmup_steps, 1))
        rate = optax.join_schedules([lambda step: rise(step + 1), after], [self.warmup_steps])
        return optax.adamw(
            rate if self.warmup_steps else after,
            b1=self.b1,
            b2=self.b2,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )


def storable(spec: "str | weights.Representation") -> weights.Representation:
    """Returns the representation of vectors for a spec.

    Raises:
        InputError: the representation is unknown, cannot be stored, or has parameters of its own.
    """
    form = weights.representation(spec)
    form.bits_per_weight((64,), axis=-1)
    learned = jax.eval_shape(form.init_params, jax.ShapeDtypeStruct((1, 64), "float32"))
    if form.needs_key or learned or "ramp=" in str(form):
        raise InputError(
            f"The format {form} was given for crammed vectors; expected one without learned scales, schedules or "
            "noise, such as dense, dense(dtype=bfloat16), int(b=8), int(b=4), int(b=2) or e4m3."
        )
    return form
