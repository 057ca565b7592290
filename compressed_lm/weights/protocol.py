"""Base class of representations, and functions that all of them use."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Float32, Key

from compressed_lm.errors import InputError
from compressed_lm.weights import options, rules

MONTE_CARLO = (1024, 64, 16)  # inputs, outputs, matrices: about a million weights


@dataclasses.dataclass(frozen=True)
class Representation:
    """Format of weights or activations: its rounding, its gradient and its stored form.

    Immutable and comparable; `str(rep)` is its canonical spec, from which `registry.representation` builds an equal
    one.

    An array is viewed as rows [..., R, N], where N is the reduction axis of its product. With `axis=-2` (a kernel
    [inputs, outputs] or a stack of kernels), N is the inputs, R the outputs, and a matrix is one kernel of the stack.
    With `axis=-1` (activations [..., features]), each vector is a matrix of one row. Scales are per row or part of a
    row, sparsity is per matrix.

    A subclass defines `_parts` (the stored arrays), `_restore` (their values) and `_layout` (their stored types).
    `quantize` returns `_restore` of `_parts`, so packed weights are exactly those of the forward pass.

    Attributes:
        name: name in specs.
        summary: one line, for lists.
        example: a spec, for help texts.
        stored: whether it has a stored form.
        maskable: whether it can represent the remaining weights of a sparse matrix.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    example: ClassVar[str] = ""
    stored: ClassVar[bool] = True
    maskable: ClassVar[bool] = False

    def __str__(self) -> str:
        return options.to_spec(self)

    @property
    def rotation(self) -> int:
        """The largest block of the Hadamard transform before the format; 0 for no transform.

        If both operands of a product have the same rotation, `quantize(..., rotated=True)` of both gives the same
        product without the two inverse transforms.
        """
        return 0

    @property
    def needs_key(self) -> bool:
        """Whether `quantize` draws random numbers."""
        return False

    def quantize(
        self,
        w: Float[Array | np.ndarray, "*shape"],
        *,
        key: Key[Array, ""] | None = None,
        params: Mapping[str, jax.Array] | None = None,
        axis: int = -2,
        rotated: bool = False,
    ) -> Float[Array, "*shape"]:
        """Returns w in this format, with the format's gradient.

        Args:
            w: a kernel [..., inputs, outputs] with axis=-2, activations [..., features] with axis=-1.
            key: random key, only for `noise`.
            params: for rule=lsq, the result of `init_params` or its trained values; also the result of `schedule`.
            axis: reduction axis, -2 or -1.
            rotated: whether the result stays in the basis of the Hadamard transform (see `rotation`).

        Returns:
            An array of w's shape and dtype. All arithmetic before the last cast is float32.

        Raises:
            InputError: w has no such axis, the key or params are missing, or `rotated` without `rotation`.
        """
        if rotated and not self.rotation:
            raise InputError(
                f"rotated=True was given to {self}, which has no Hadamard transform. Leave it out, or use "
                "rule=quest or vq for both operands."
            )
        rows = to_rows(w, axis)
        value = self._apply(rows, params=params, key=key, rotated=rotated)
        return from_rows(value, w.shape, axis).astype(w.dtype)

    def init_params(self, w: Float[Array | np.ndarray, "..."], *, axis: int = -2) -> dict[str, jax.Array]:
        """Returns the trainable parameters of the format for w: none, except for rule=lsq."""
        del w, axis
        return {}

    def schedule(self, progress: ArrayLike) -> dict[str, jax.Array]:
        """Returns the params of `quantize` that change during a run: none, except for sparse(ramp=...).

        Args:
            progress: finished share of the run, 0 to 1; it may be traced.
        """
        del progress
        return {}

    def bits_per_weight(self, shape: tuple[int, ...], *, axis: int = -2) -> float:
        """Returns stored bits per weight: codes, scales, masks and indices, as written by `packing.pack`."""
        layout = self._layout(rows_shape(shape, axis))
        return 8 * sum(stored.nbytes for stored in layout.values()) / max(1, int(np.prod(shape)))

    def gmse(self) -> float:
        """Returns the mean squared error on N(0, 1) for long rows and large matrices (GMSE in the papers)."""
        return self.gmse_with_error()[0]

    def gmse_with_error(self) -> tuple[float, float]:
        """Returns (GMSE, standard error); the error is 0 if the value is an integral."""
        return monte_carlo_gmse(self)

    def then(self, other: "Representation") -> "Representation":
        """Returns the hybrid that sparsifies with this representation and quantises the rest with `other`.

        Raises:
            InputError: this representation is not sparse, or `other` cannot represent parts of a matrix.
        """
        raise InputError(
            f"{self}+{other} was given, but only sparse and nm can be followed by a format. "
            "Sparsify first, then quantise, such as sparse(s=0.5)+int(b=4)."
        )

    def _kept_error(self, source: Any) -> float | None:
        """Returns the integral over N(0, 1) of the squared error of the weights that `source` keeps, or None."""
        del source
        return None

    def _apply(
        self,
        rows: Float32[Array, "*stack R N"],
        *,
        params: Mapping[str, jax.Array] | None = None,
        key: Key[Array, ""] | None = None,
        rotated: bool = False,
        keep: Bool[Array, "*stack R N"] | None = None,
        source: "Representation | None" = None,
    ) -> Float32[Array, "*stack R N"]:
        """Returns the represented rows, with a straight-through gradient unless overridden.

        Args:
            rows: the weights.
            params, key, rotated: see `quantize`.
            keep: the weights to represent; the others become 0. None for all.
            source: the sparse representation that `keep` comes from.
        """
        del key, rotated
        parts = self._stored_parts(self._prepare(rows), params, keep, source)
        return rules.straight_through(rows, kept(self._restore(parts, rows.shape[-1]), keep))

    def _prepare(self, rows: Float32[Array, "*stack R N"]) -> Float32[Array, "*stack R N"]:
        """Returns the rows in the basis in which they are quantised."""
        return rows

    @functools.partial(jax.jit, static_argnums=(0, 4))
    def _stored_parts(self, rows, params, keep, source):
        """Returns `_parts` without gradient; compiled separately, so `quantize` and `pack` run the same program."""
        rows, params = jax.lax.stop_gradient((rows, params))
        return self._parts(rows, params=params, keep=keep, source=source)

    def _parts(self, rows, *, params, keep, source) -> dict[str, jax.Array]:
        """Returns the stored arrays; names and order are those of `_layout`."""
        raise self._not_stored()

    def _restore(self, parts, length: int, *, rotated: bool = False) -> jax.Array:
        """Returns float32[..., R, N] from the stored arrays; N is `length`."""
        raise self._not_stored()

    def _layout(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Returns the `Stored` type of each part of rows of this shape."""
        raise self._not_stored()

    def _not_stored(self) -> InputError:
        return InputError(f"{self} cannot be stored: it is only for training and measurements. Use another format.")

    def _compact(self, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the parts without numbers that a mask excludes; their shapes are those of `_layout`."""
        return parts

    def _expand(self, parts: dict[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Undoes `_compact` for rows of a shape; excluded numbers become 0."""
        del shape
        return parts


def kept(x: Float[Array, "*shape"], keep: Bool[Array, "*shape"] | None) -> Float[Array, "*shape"]:
    """Returns x where keep is true, and exactly 0 elsewhere."""
    return x if keep is None else rules.masked(x, keep)


def rows_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Returns the shape [..., R, N] of the rows of an array.

    Raises:
        InputError: the axis is not -1 or -2, or the array has too few dimensions.
    """
    if axis not in (-1, -2):
        raise InputError(f"axis={axis} was given; expected -2 for kernels [inputs, outputs] or -1 for activations.")
    if len(shape) < -axis:
        raise InputError(
            f"An array of shape {tuple(shape)} was given with axis={axis}; expected at least {-axis} dimensions. "
            "Use axis=-1 for a vector."
        )
    return (*shape[:-1], 1, shape[-1]) if axis == -1 else (*shape[:-2], shape[-1], shape[-2])


def to_rows(w: Float[Array | np.ndarray, "..."], axis: int) -> Float32[Array, "*stack R N"]:
    """Returns the rows of a float array (see `Representation`)."""
    shape = rows_shape(w.shape, axis)
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise InputError(f"An array of {w.dtype} was given; expected a floating-point array. Convert it.")
    w = jnp.asarray(w, jnp.float32)
    return w.reshape(shape) if axis == -1 else jnp.swapaxes(w, -1, -2)


def from_rows(rows: Float32[Array, "*stack R N"], shape: tuple[int, ...], axis: int) -> Float32[Array, "..."]:
    """Returns the array of a shape from its rows; undoes `to_rows`."""
    return rows.reshape(shape) if axis == -1 else jnp.swapaxes(rows, -1, -2)


@functools.cache
def monte_carlo_gmse(rep: Representation) -> tuple[float, float]:
    """Returns (mean squared error on N(0, 1), standard error) of `quantize`, measured on matrices of fixed seeds."""
    inputs, outputs, matrices = MONTE_CARLO

    @jax.jit
    def error(seed):
        data, noise = jax.random.split(jax.random.key(seed))
        w = jax.random.normal(data, (inputs, outputs))
        return jnp.mean((rep.quantize(w, key=noise, params=rep.init_params(w)) - w) ** 2)

    errors = np.array([float(error(seed)) for seed in range(matrices)])
    return float(errors.mean()), float(errors.std(ddof=1) / matrices**0.5)
