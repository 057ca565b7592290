"""What a representation of weights is, and the parts that all of them share."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.weights import options, rules
from compressed_lm.weights.storage import Stored

MONTE_CARLO = (1024, 64, 16)  # inputs, outputs, matrices: a million weights


@dataclasses.dataclass(frozen=True)
class Representation:
    """A format of weights or activations: how it rounds, what gradient it passes on, what it costs to store.

    Immutable, comparable, and spelled by `str(rep)`, from which `registry.representation` builds an equal one.

    An array is seen as rows [..., R, N], N being the reduction axis of the product it is used in. With `axis=-2` (a
    kernel [inputs, outputs] or a stack of them) N is the inputs, R the outputs and a matrix one kernel of the stack;
    with `axis=-1` (activations [..., features]) each vector is a matrix of one row. Scales belong to rows or parts of
    them, sparsity to matrices.

    A subclass gives `_parts`, `_restore` and `_layout`: what is stored, the values it stands for, and in which types.
    `quantize` is the second of the first, so packed weights hold exactly what the forward pass used.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""  # one line, for lists
    example: ClassVar[str] = ""  # a spec, for help texts
    stored: ClassVar[bool] = True  # whether it has a stored form
    maskable: ClassVar[bool] = False  # whether it can represent the remaining weights of a sparse matrix

    def __str__(self) -> str:
        return options.spell(self)

    @property
    def rotation(self) -> int:
        """The largest block of the Hadamard transform in front of the format; 0 where there is none.

        Where both operands of a product have the same, `quantize(..., rotated=True)` of both leaves out two inverse
        transforms and gives the same product.
        """
        return 0

    @property
    def needs_key(self) -> bool:
        """Whether `quantize` draws random numbers."""
        return False

    def quantize(self, w, *, key=None, params=None, axis: int = -2, rotated: bool = False) -> jax.Array:
        """Returns w as this format represents it, with the format's own gradient.

        Args:
            w: float array; a kernel [..., inputs, outputs] with axis=-2, activations [..., features] with axis=-1.
            key: random key, for `noise` alone.
            params: what `init_params` returned, trained since, for rule=lsq; and what `schedule` returns.
            axis: -2 or -1, the reduction axis.
            rotated: leaves the result in the basis of the Hadamard transform (see `rotation`).

        Returns:
            An array of w's shape and dtype. All arithmetic before the last cast is float32.

        Raises:
            InputError: an axis that w does not have, a missing key or missing params, or `rotated` without `rotation`.
        """
        if rotated and not self.rotation:
            raise InputError(
                f"rotated=True was given to {self}, which has no Hadamard transform. Leave it out, or use "
                "rule=quest or vq for both operands."
            )
        rows = to_rows(w, axis)
        value = self._apply(rows, params=params, key=key, rotated=rotated)
        return from_rows(value, w.shape, axis).astype(w.dtype)

    def init_params(self, w, *, axis: int = -2) -> dict[str, jax.Array]:
        """Returns the trainable parameters that the format adds for w: none, but for rule=lsq."""
        del w, axis
        return {}

    def schedule(self, progress) -> dict[str, jax.Array]:
        """Returns the params of `quantize` that change in the course of a run: none, but for sparse(ramp=...).

        Args:
            progress: the part of the run that is over, 0 to 1; it may be traced.
        """
        del progress
        return {}

    def bits_per_weight(self, shape: tuple[int, ...], *, axis: int = -2) -> float:
        """Returns stored bits over weights: codes, scales, masks and indices, as `packing.pack` writes them."""
        layout = self._layout(rows_shape(shape, axis))
        return 8 * sum(stored.nbytes for stored in layout.values()) / max(1, int(np.prod(shape)))

    def gmse(self) -> float:
        """Returns the mean squared error on N(0, 1) for long rows and large matrices (papers' GMSE)."""
        return self.gmse_with_error()[0]

    def gmse_with_error(self) -> tuple[float, float]:
        """Returns (GMSE, standard error); the error is 0 where the value is an integral."""
        return monte_carlo_gmse(self)

    def then(self, other: "Representation") -> "Representation":
        """Returns the hybrid that sparsifies by this representation, then quantises what remains by `other`.

        Raises:
            InputError: this one is not sparse, or `other` cannot represent parts of a matrix.
        """
        raise InputError(
            f"{self} was asked to be followed by {other}; only sparse and nm can be followed by a format. "
            "Sparsify first, then quantise, such as sparse(s=0.5)+int(b=4)."
        )

    def _kept_error(self, source) -> float | None:
        """Returns the integral over N(0, 1) of the squared error of the weights that `source` keeps; None if no
        integral is known."""
        del source
        return None

    def _apply(self, rows, *, params=None, key=None, rotated=False, keep=None, source=None):
        """Returns float32[..., R, N], the represented rows, differentiable: straight through unless overridden.

        Args:
            rows: float32[..., R, N].
            params: see `quantize`.
            key: see `quantize`.
            rotated: see `quantize`.
            keep: bool[..., R, N], the weights to represent; the others become 0. None for all.
            source: the representation that `keep` comes from.
        """
        del key, rotated
        parts = self._stored_parts(self._prepare(rows), params, keep, source)
        return rules.straight_through(rows, kept(self._restore(parts, rows.shape[-1]), keep))

    def _prepare(self, rows):
        """Returns the rows in the basis in which they are quantised."""
        return rows

    @functools.partial(jax.jit, static_argnums=(0, 4))
    def _stored_parts(self, rows, params, keep, source):
        """Returns `_parts` without gradient; compiled by itself: `quantize` and `pack` then run the same program."""
        rows, params = jax.lax.stop_gradient((rows, params))
        return self._parts(rows, params=params, keep=keep, source=source)

    def _parts(self, rows, *, params, keep, source) -> dict[str, jax.Array]:
        """Returns what is stored, as arrays; names and order are those of `_layout`."""
        raise self._not_stored()

    def _restore(self, parts, length: int, *, rotated: bool = False) -> jax.Array:
        """Returns float32[..., R, N] from what is stored, N being `length`."""
        raise self._not_stored()

    def _layout(self, shape) -> dict[str, Stored]:
        """Returns how the parts of rows of this shape are stored."""
        raise self._not_stored()

    def _not_stored(self):
        return InputError(f"{self} cannot be stored: it is there to train and to measure with. Use another format.")

    def _compact(self, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the parts without the numbers that a mask makes needless; their shapes are those of `_layout`."""
        return parts

    def _expand(self, parts: dict[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Undoes `_compact` for rows of a shape; 0 in the place of what was left out."""
        del shape
        return parts


def kept(x: jax.Array, keep: jax.Array | None) -> jax.Array:
    """Returns x where keep is true, and exactly 0 elsewhere."""
    return x if keep is None else rules.masked(x, keep)


def rows_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Returns the shape [..., R, N] of the rows of an array.

    Raises:
        InputError: an axis other than -1 and -2, or one that the array does not have.
    """
    if axis not in (-1, -2):
        raise InputError(f"axis={axis} was given; expected -2 for kernels [inputs, outputs] or -1 for activations.")
    if len(shape) < -axis:
        raise InputError(
            f"An array of shape {tuple(shape)} was given with axis={axis}; expected at least {-axis} dimensions. "
            "Use axis=-1 for a vector."
        )
    return (*shape[:-1], 1, shape[-1]) if axis == -1 else (*shape[:-2], shape[-1], shape[-2])


def to_rows(w, axis: int) -> jax.Array:
    """Returns float32[..., R, N] of a float array (see `Representation`)."""
    shape = rows_shape(w.shape, axis)
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise InputError(f"An array of {w.dtype} was given; representations take floating-point arrays.")
    w = jnp.asarray(w, jnp.float32)
    return w.reshape(shape) if axis == -1 else jnp.swapaxes(w, -1, -2)


def from_rows(rows, shape: tuple[int, ...], axis: int) -> jax.Array:
    """Undoes `to_rows`."""
    return rows.reshape(shape) if axis == -1 else jnp.swapaxes(rows, -1, -2)


@functools.cache
def monte_carlo_gmse(rep: Representation) -> tuple[float, float]:
    """Returns (mean squared error on N(0, 1), standard error) of `quantize` itself, over matrices of fixed seeds."""
    inputs, outputs, matrices = MONTE_CARLO

    @jax.jit
    def error(seed):
        data, noise = jax.random.split(jax.random.key(seed))
        w = jax.random.normal(data, (inputs, outputs))
        return jnp.mean((rep.quantize(w, key=noise, params=rep.init_params(w)) - w) ** 2)

    errors = np.array([float(error(seed)) for seed in range(matrices)])
    return float(errors.mean()), float(errors.std(ddof=1) / matrices**0.5)
