"""Scaling laws: sums of power terms with a floor E, and capacities that multiply the size.

All laws have the form `L = sum_k c_k prod_j x_j^(s e_j) (+ E)` with signs s, coefficients and E at least 0, and
exponents above 0. Capacities multiply the size: `(N rho_1 rho_2 ...)^-alpha`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.scaling.capacity import Exponential, Factor, Free, Logistic, Tanh, as_numbers

SIZE, DATA = "n_params", "tokens"
DENSE = {"sparsity": 0.0, "post_bits": 64.0}
"""Inputs that describe compression, and their uncompressed values."""

Params = Mapping[str, float | np.ndarray]
"""Parameter -> value, or float64[b] values."""


class Power(NamedTuple):
    """Power `input ^ (sign exponent)` within a term."""

    exponent: str
    input: str
    sign: int = -1


class Term(NamedTuple):
    """Coefficient times powers of the inputs; capacities multiply the size if `compressed`."""

    coefficient: str
    powers: tuple[Power, ...]
    compressed: bool = True


@dataclasses.dataclass(frozen=True)
class PowerSum:
    """Scaling law.

    Attributes:
        name: short name.
        terms: the coefficients c_k and their powers.
        offset: whether the law has a floor E, the irreducible loss.
        factors: capacities; their product multiplies the size.
        held: parameters with a fixed value, unless `fit` frees them (`fixed={"L": None}`).
        scales: (name, coefficient, exponent) of derived parameters `name = coefficient^(1 / exponent)`.
    """

    name: str
    terms: tuple[Term, ...]
    offset: bool = True
    factors: tuple[Factor, ...] = ()
    held: tuple[tuple[str, float], ...] = ()
    scales: tuple[tuple[str, str, str], ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the numeric inputs, without the columns of the factors."""
        return tuple(dict.fromkeys(power.input for term in self.terms for power in term.powers))

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the coefficients c_k."""
        return tuple(term.coefficient for term in self.terms)

    @property
    def exponents(self) -> tuple[str, ...]:
        """Names of the exponents e_j."""
        return tuple(dict.fromkeys(power.exponent for term in self.terms for power in term.powers))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters: coefficients, E if present, exponents, factor parameters."""
        factors = dict.fromkeys(parameter.name for factor in self.factors for parameter in factor.parameters)
        return (*self.coefficients, *(("E",) if self.offset else ()), *self.exponents, *factors)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns: the inputs, then the columns of the factors."""
        return (*self.inputs, *dict.fromkeys(factor.column for factor in self.factors))

    @property
    def compresses(self) -> bool:
        """Whether the law has an input or factor that describes compression."""
        return bool(self.factors) or any(name in DENSE for name in self.inputs)

    def encode(self, table: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Returns logs of the inputs, float64[len(inputs), n], and the encoded column of each factor."""
        return (
            np.stack([log_input(name, table[name]) for name in self.inputs]),
            [factor.encode(table[factor.column]) for factor in self.factors],
        )

    def log_rho(self, params: Params, columns: Sequence[np.ndarray]) -> np.ndarray:
        """Returns ln of the product of all capacities: float64[n], or float64[b, n] for b values per parameter."""
        total = np.zeros(())
        for factor, z in zip(self.factors, columns, strict=True):
            given = [np.atleast_1d(np.asarray(params[p.name], float)) for p in factor.parameters]
            values = np.stack(np.broadcast_arrays(*given), 1) if given else np.ones((1, 0))
            total = total + factor.log_rho(values, z)[0]
        return total[0] if total.ndim == 2 and len(total) == 1 else total

    def term_values(self, params: Params, table: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns each term at every row, float64[n], or float64[b, n] if the parameters have b values each."""
        rows, columns = self.encode(table)
        logs = dict(zip(self.inputs, rows, strict=True))
        scaled = {**logs, SIZE: logs[SIZE] + self.log_rho(params, columns)} if self.factors else logs
        values = []
        for term in self.terms:
            x = scaled if term.compressed else logs
            log = sum(power.sign * _column(params[power.exponent]) * x[power.input] for power in term.powers)
            values.append(_column(params[term.coefficient]) * np.exp(log))
        return values

    def __call__(self, params: Params, table: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the loss at every row, in the unit of the fit: float64[n], or float64[b, n] as `term_values`."""
        return np.asarray(sum(self.term_values(params, table)) + (_column(params["E"]) if self.offset else 0.0))


def _column(value: float | np.ndarray) -> np.ndarray | float:
    return value if np.ndim(value) == 0 else np.asarray(value)[:, None]


def log_input(name: str, values: np.ndarray) -> np.ndarray:
    """Returns the factor of an exponent, float64[n]: ln x, ln of the density for a sparsity, bits for `post_bits`."""
    values = as_numbers(name, values)
    low, high = (0, 1) if name == "sparsity" else (0, np.inf)
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= low) & (values < high)))
    if name != "sparsity" and not bad.size:
        bad = np.flatnonzero(values <= 0)
    if bad.size:
        expected = "a share from 0 to below 1" if name == "sparsity" else "a positive, finite number"
        raise InputError(f"{name}[{bad[0]}] is {values[bad[0]]}. A power law needs {expected}: drop such rows first.")
    if name == "sparsity":
        return np.log1p(-values)
    return values if name == "post_bits" else np.log(values)


_SIZE_TERM = Term("A", (Power("alpha", SIZE),))
_DATA_TERM = Term("B", (Power("beta", DATA),))

CHINCHILLA = PowerSum("chinchilla", (_SIZE_TERM, _DATA_TERM))
"""`L = A N^-alpha + B D^-beta + E` with parameters N and tokens D (Hoffmann et al. 2022, equation 2)."""

POWER = PowerSum("power", (Term("A", (Power("alpha", "x"),)),))
"""`L = A x^-alpha + E`."""

LINE = PowerSum("line", POWER.terms, offset=False)
"""`L = A x^-alpha`: a straight line on log-log axes, for too few points to determine a floor."""

FRANTAR_2023 = PowerSum(
    "frantar2023",
    (
        Term("a_S", (Power("b_S", "sparsity", 1), Power("b_N", SIZE))),
        Term("c_S", (Power("b_N", SIZE),)),
        Term("B", (Power("b_D", DATA),)),
    ),
    scales=(("a_D", "B", "b_D"),),
)
"""`L = (a_S (1 - S)^b_S + c_S) N^-b_N + (a_D / D)^b_D + E` with N the *non-zero* parameters (arXiv 2309.08520)."""


def unified(
    form: str = "tanh",
    *,
    factors: str | Sequence[str] = (),
    shared: bool = False,
    reference: object = "dense",
) -> PowerSum:
    """Returns the law `L = A (N rho)^-alpha + B D^-beta + E` (arXiv 2506.01863, equation 1); rho is a product.

    Args:
        form: form of the capacity: `free` (one value per format), `tanh`, `logistic` or `logistic10` (section C.2).
        factors: the column of each factor, one name or several; default `format` for `free`, otherwise `gmse`.
        shared: whether the factors of a product have the same parameters.
        reference: for `free`, the format with capacity 1.

    Raises:
        InputError: the form is unknown.
    """
    kinds: dict[str, Callable[..., Factor]] = {
        "free": lambda column, suffix: Free(column, suffix, reference=reference),
        "tanh": Tanh,
        "logistic": Logistic,
        "logistic10": lambda column, suffix: Logistic(column, suffix, ends=True),
    }
    if form not in kinds:
        raise InputError(f"There is no capacity of the form {form!r}. Expected one of: {', '.join(kinds)}.")
    columns = (factors,) if isinstance(factors, str) else tuple(factors)
    columns = columns or ("format" if form == "free" else "gmse",)
    apart = len(columns) > 1 and not shared
    made = tuple(kinds[form](column, f"[{column}]" if apart else "") for column in columns)
    return _compressed("decoupled" if form == "free" else form, made)


def kumar(
    *, bits: Sequence[str] = ("w_bits",), tied: bool = False, post_bits: bool = False, offsets: bool = True
) -> PowerSum:
    """Returns the law of Kumar et al. 2024 (arXiv 2411.04330): `rho = prod_P (1 - exp(-(P / gamma_P + n_P)))`.

    Args:
        bits: columns with the bits of weights, activations, key-value cache; infinity (or many) if not quantised.
        tied: whether size and data share one exponent alpha, as in the paper's fits.
        post_bits: adds `C_T D^gamma_D / N^gamma_N e^(-post_bits decay_post)`, the cost of quantisation after training
            (1 / decay_post is the paper's gamma_post); N is not multiplied by rho there.
        offsets: whether the n_P are fitted; otherwise they are 0.
    """
    bits = (bits,) if isinstance(bits, str) else tuple(bits)
    made = tuple(Exponential(column, f"[{column}]") for column in bits)
    law = _compressed("kumar", made)
    terms: tuple[Term, ...] = (_SIZE_TERM, Term("B", (Power("alpha" if tied else "beta", DATA),)))
    if post_bits:
        powers = (Power("gamma_D", DATA, 1), Power("gamma_N", SIZE), Power("decay_post", "post_bits"))
        terms += (Term("C_T", powers, compressed=False),)
    held = () if offsets else tuple((f"n[{column}]", 0.0) for column in bits)
    return dataclasses.replace(law, terms=terms, held=held)


def _compressed(name: str, factors: tuple[Factor, ...]) -> PowerSum:
    names = dict.fromkeys(parameter.name for factor in factors for parameter in factor.parameters)
    held = tuple((parameter, 1.0) for parameter in names if parameter == "L" or parameter.startswith("L["))
    return PowerSum(name, (_SIZE_TERM, _DATA_TERM), factors=factors, held=held)


def frantar2025(*, scheme: str = "format", reference: object = "dense") -> PowerSum:
    """Returns the law `L = a / (N eff)^b + c / D^d + E`, with a free `eff` per scheme (arXiv 2502.16440)."""
    terms = (Term("a", (Power("b", SIZE),)), Term("c", (Power("d", DATA),)))
    return PowerSum("frantar2025", terms, factors=(Free(scheme, reference=reference, symbol="eff"),))


def _fixed(law: PowerSum) -> Callable[..., PowerSum]:
    def build(columns: Mapping[str, Any], **options: Any) -> PowerSum:
        if options:
            raise InputError(f"The law {law.name!r} takes no options, but {', '.join(options)} were given.")
        return law

    return build


LAWS: dict[str, Callable[..., PowerSum]] = {
    "chinchilla": _fixed(CHINCHILLA),
    "decoupled": lambda columns, **options: unified("free", factors=columns.get("format", "format"), **options),
    "tanh": lambda columns, **options: unified("tanh", factors=columns.get("gmse", "gmse"), **options),
    "logistic": lambda columns, **options: unified("logistic", factors=columns.get("gmse", "gmse"), **options),
    "logistic10": lambda columns, **options: unified("logistic10", factors=columns.get("gmse", "gmse"), **options),
    "kumar": lambda columns, **options: kumar(bits=columns.get("bits", ("w_bits",)), **options),
    "frantar2023": _fixed(FRANTAR_2023),
    "frantar2025": lambda columns, **options: frantar2025(scheme=columns.get("format", "format"), **options),
    "power": _fixed(POWER),
    "line": _fixed(LINE),
}
"""Laws by name: (columns, options) -> law. `columns` maps `gmse`, `format` or `bits` to a column or several."""


def law_named(name: str, *, columns: Mapping[str, Any] | None = None, **options: Any) -> PowerSum:
    """Returns the law of a name in `LAWS`.

    Args:
        name: name of the law; `free` is another name of `decoupled`.
        columns: `gmse`, `format` or `bits`, each the name of a column or a tuple of several for a product.
        **options: options of `unified`, `kumar` or `frantar2025`.

    Raises:
        InputError: the name or an option is unknown.
    """
    build = LAWS.get("decoupled" if name == "free" else name)
    if build is None:
        raise InputError(f"There is no law {name!r}. Expected one of: {', '.join(LAWS)}.")
    try:
        return build(columns or {}, **options)
    except TypeError:
        raise InputError(f"The law {name!r} does not take all of the options {', '.join(options)}.") from None
