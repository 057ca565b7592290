"""Capacity rho of a representation: effective share of a model's parameters.

`rho(R)` is in (0, 1] and multiplies N in a law of the loss: a model with N parameters in the representation R has the
loss of a dense one with `N rho(R)` (Unified Scaling Laws for Compressed Representations, arXiv 2506.01863, equation 1).
A factor computes ln rho from one column of a run table; several factors multiply (its finding 3). A GMSE of 0 means no
rounding: rho is 1 there for all parameters.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from compressed_lm.errors import InputError

_LN4 = np.log(4.0)


def as_numbers(name: str, values: Any) -> np.ndarray:
    """Returns a column as float64[n].

    Raises:
        InputError: a value is not a number; the message names the first one.
    """
    try:
        return np.asarray(values, float)
    except (ValueError, TypeError, OverflowError):
        pass
    for row, value in enumerate(np.asarray(values, object).tolist()):
        try:
            float(value)
        except (ValueError, TypeError, OverflowError):
            raise InputError(
                f"{name}[{row}] is {str(value)[:60]!r}. Expected a number: correct the table, or drop such rows."
            ) from None
    raise InputError(f"The column {name} cannot be read as numbers. Correct the table.")


class Parameter(NamedTuple):
    """Parameter with bounds.

    Attributes:
        name: its name.
        low, high: bounds.
        likely: range in which the search starts.
        log: whether the search is on a logarithmic scale.
    """

    name: str
    low: float
    high: float
    likely: tuple[float, float]
    log: bool = True


def effective_bits(gmse: np.ndarray) -> np.ndarray:
    """Returns the bits of an ideal code with this error, `log_{1/4} GMSE`, float64 of the shape of `gmse`.

    Shannon's bound for a unit Gaussian is `4^-b`, so an ideal b-bit code has exactly b effective bits.
    """
    with np.errstate(divide="ignore"):
        return -np.log(np.asarray(gmse, float)) / _LN4


def rho(gmse: np.ndarray, *, F: float, C: float, L: float = 1.0) -> np.ndarray:  # noqa: N803 (the paper's letters)
    """Returns the capacity `L tanh(F log_{1/4} GMSE)^C` (arXiv 2506.01863, equation 3), 1 if GMSE is 0.

    Args:
        gmse: mean squared error on N(0, 1), from 0 (dense) to 1 (all information lost, rho is 0); any shape.
        F: growth rate of capacity with effective bits.
        C: steepness of the drop at few bits.
        L: limit for many bits.
    """
    gmse = np.asarray(gmse, float)
    return np.where(gmse == 0, 1.0, L * np.tanh(F * effective_bits(gmse)) ** C)


def sparsity_gmse(sparsity: np.ndarray) -> np.ndarray:
    """Returns the GMSE of magnitude pruning, `s - 2 t phi(t)` with `t = Phi^-1((1 + s) / 2)`; float64, any shape."""
    sparsity = np.asarray(sparsity, float)
    t = scipy.special.ndtri((1 + sparsity) / 2)
    return sparsity - 2 * t * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)


@dataclasses.dataclass(frozen=True)
class Factor(abc.ABC):
    """Factor of the capacity: ln rho as a function of one column.

    Attributes:
        column: name of the column of the run table.
        suffix: appended to the parameter names to distinguish the factors of a product; factors without suffix share
            their parameters.
    """

    column: str
    suffix: str = ""

    @property
    def dense(self) -> object:
        """The value of the column that means no compression."""
        return 0.0

    @property
    @abc.abstractmethod
    def parameters(self) -> tuple[Parameter, ...]:
        """The fitted parameters."""

    def bind(self, values: np.ndarray) -> "Factor":
        """Returns the factor prepared for the column that it is fitted to."""
        return self

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Returns the checked column as the argument of `log_rho`: float64[n], GMSE below 1."""
        values = as_numbers(self.column, values)
        bad = np.flatnonzero(~((values >= 0) & (values < 1)))
        if bad.size:
            raise InputError(
                f"{self.column} is {values[bad[0]]} in row {bad[0]}. Expected a GMSE of at least 0 (dense) and below 1 "
                "(all information lost): drop such rows first."
            )
        return values

    @abc.abstractmethod
    def log_rho(self, values: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns ln rho, float64[b, n], and its derivatives, float64[b, m, n].

        Args:
            values: float64[b, m], b sets of the m parameters.
            z: the encoded column, [n].
        """

    def curvature(self, values: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Returns the second derivatives of ln rho, summed over rows with `weights` float64[b, n]: float64[b, m, m]."""
        m = values.shape[1]
        out = np.empty((len(values), m, m))
        for k in range(m):
            step = 1e-5 * values[:, k]
            up, down = values.copy(), values.copy()
            up[:, k] += step
            down[:, k] -= step
            change = self.log_rho(up, z)[1] - self.log_rho(down, z)[1]
            out[:, k] = np.matmul(change, weights[:, :, None])[:, :, 0] / (2 * step[:, None])
        return (out + out.swapaxes(1, 2)) / 2

    def _named(self, *parameters: Parameter) -> tuple[Parameter, ...]:
        return tuple(parameter._replace(name=parameter.name + self.suffix) for parameter in parameters)


@dataclasses.dataclass(frozen=True)
class Tanh(Factor):
    """Capacity `L tanh(F log_{1/4} GMSE)^C`, with L fixed at 1 unless freed."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self._named(
            Parameter("F", 0.01, 10, (0.1, 2)), Parameter("C", 0.05, 20, (0.3, 5)), Parameter("L", 0.05, 2, (0.5, 1.2))
        )

    def log_rho(self, values: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        f, c, top = (values[:, k, None] for k in range(3))
        dense = z == 0
        bits = effective_bits(np.where(dense, 0.5, z))[None]
        decay = np.exp(-2 * f * bits)
        log_tanh = np.log1p(-decay) - np.log1p(decay)
        value = np.log(top) + c * log_tanh
        slopes = np.stack([4 * c * bits * decay / (1 - decay**2), log_tanh, np.broadcast_to(1 / top, value.shape)], 1)
        return np.where(dense, 0.0, value), np.where(dense, 0.0, slopes)


@dataclasses.dataclass(frozen=True)
class Logistic(Factor):
    """Capacity `1 / (1 + rho_B GMSE^rho_A)`.

    Attributes:
        ends: use `(1 - GMSE^rho_A) / (1 + rho_B GMSE^rho_A)`, which is 0 at GMSE 1.
    """

    ends: bool = False

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self._named(Parameter("rho_A", 0.02, 10, (0.2, 2)), Parameter("rho_B", 1e-3, 1e4, (0.5, 100)))

    def log_rho(self, values: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = values[:, 0, None], values[:, 1, None]
        dense = z == 0
        log_z = np.log(np.where(dense, 0.5, z))[None]
        power = np.exp(a * log_z)
        value = -np.log1p(b * power)
        slopes = [-b * power * log_z / (1 + b * power), -power / (1 + b * power)]
        if self.ends:
            value = value + np.log1p(-power)
            slopes[0] = slopes[0] - power * log_z / (1 - power)
        return np.where(dense, 0.0, value), np.where(dense, 0.0, np.stack(slopes, 1))


@dataclasses.dataclass(frozen=True)
class Exponential(Factor):
    """Capacity `1 - exp(-(P / gamma + n))` with P bits (Kumar et al. 2024, arXiv 2411.04330), n 0 unless freed."""

    @property
    def dense(self) -> object:
        return np.inf

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self._named(Parameter("gamma", 0.05, 50, (0.5, 8)), Parameter("n", 0.0, 5, (0.05, 2), False))

    def encode(self, values: np.ndarray) -> np.ndarray:
        values = as_numbers(self.column, values)
        bad = np.flatnonzero(~(values > 0))
        if bad.size:
            raise InputError(
                f"{self.column} is {values[bad[0]]} in row {bad[0]}. Expected bits above 0: drop such rows first."
            )
        return values

    def log_rho(self, values: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gamma, n = values[:, 0, None], values[:, 1, None]
        dense = ~np.isfinite(z)
        bits = np.where(dense, 1.0, z)[None]
        exponent = bits / gamma + n
        slope = 1 / np.expm1(exponent)
        value = np.log(-np.expm1(-exponent))
        slopes = np.stack([-slope * bits / gamma**2, slope], 1)
        return np.where(dense, 0.0, value), np.where(dense, 0.0, slopes)

    def curvature(self, values: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
        # n may be 0, where the relative step of the numerical derivative is 0.
        gamma, n = values[:, 0, None], values[:, 1, None]
        dense = ~np.isfinite(z)
        bits = np.where(dense, 1.0, z)[None]
        exponent = bits / gamma + n
        slope = 1 / np.expm1(exponent)
        bend = -slope * (1 + slope)
        out = np.empty((len(values), 2, 2))
        weights = np.where(dense, 0.0, weights)
        out[:, 0, 0] = (weights * (bend * bits**2 / gamma**4 + slope * 2 * bits / gamma**3)).sum(1)
        out[:, 0, 1] = out[:, 1, 0] = -(weights * bend * bits / gamma**2).sum(1)
        out[:, 1, 1] = (weights * bend).sum(1)
        return out


@dataclasses.dataclass(frozen=True)
class Free(Factor):
    """One free capacity per format, 1 for the reference: the best fit that any capacity curve can reach.

    Attributes:
        reference: the uncompressed value of the column.
        symbol: prefix of the parameter names, as in `rho[int4]`.
        formats: the other values; set by `bind`.
    """

    reference: object = "dense"
    symbol: str = "rho"
    formats: tuple = ()

    @property
    def dense(self) -> object:
        return self.reference

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(Parameter(f"{self.symbol}[{self._label(value)}]", 1e-4, 4, (0.05, 1)) for value in self.formats)

    def bind(self, values: np.ndarray) -> "Free":
        found = sorted(set(np.asarray(values).tolist()), key=lambda value: (isinstance(value, str), value))
        # A reference given as text, such as from a command line, may name a number.
        reference = {self._format_name(value): value for value in found}.get(self._format_name(self.reference))
        if reference is None:
            raise InputError(
                f"The column {self.column!r} has no row of the reference format {self.reference!r}, whose capacity is "
                f"1 by definition. It has: {', '.join(map(str, found))}. Name the uncompressed one with reference=."
            )
        others = tuple(value for value in found if value != reference)
        return dataclasses.replace(self, reference=reference, formats=others)

    def encode(self, values: np.ndarray) -> np.ndarray:
        place = {value: k for k, value in enumerate((*self.formats, self.reference))}
        unknown = sorted({str(value) for value in np.asarray(values).tolist() if value not in place})
        if unknown:
            raise InputError(
                f"No capacity is known for the format(s) {', '.join(unknown)} of the column {self.column!r}. Known: "
                f"{', '.join(map(str, place))}. Fit a law with GMSE to predict others."
            )
        return np.array([place[value] for value in np.asarray(values).tolist()])

    def log_rho(self, values: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        here = (np.arange(len(self.formats))[:, None] == z[None]).astype(float)
        return np.log(values) @ here, here[None] / values[:, :, None]

    def curvature(self, values: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
        here = (np.arange(len(self.formats))[:, None] == z[None]).astype(float)
        return -np.einsum("bn,mn->bm", weights, here)[:, :, None] / values[:, :, None] ** 2 * np.eye(len(self.formats))

    def _label(self, value: object) -> str:
        return f"{self.column}={self._format_name(value)}" if self.suffix else self._format_name(value)

    @staticmethod
    def _format_name(value) -> str:
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)
