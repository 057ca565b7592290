"""Laws of the loss: sums of power terms, one coefficient and one exponent each, and a floor E."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class PowerSum:
    """The law `L = sum_k c_k x_k^-e_k (+ E)` with every c_k and E at least 0.

    Attributes:
      name: short name.
      inputs: names of the x_k, in the order in which they are given.
      coefficients: names of the c_k.
      exponents: names of the e_k.
      offset: whether the law has a floor E, the loss that no scale removes.
    """

    name: str
    inputs: tuple[str, ...]
    coefficients: tuple[str, ...]
    exponents: tuple[str, ...]
    offset: bool = True

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all free parameters: coefficients, E where there is one, exponents."""
        return (*self.coefficients, *(("E",) if self.offset else ()), *self.exponents)

    def __call__(self, params: dict[str, float], *inputs) -> np.ndarray:
        """The loss at `inputs`, one array per name in `self.inputs`, broadcast together; in the unit of the fit."""
        total = params["E"] if self.offset else 0.0
        for x, coefficient, exponent in zip(inputs, self.coefficients, self.exponents, strict=True):
            total = total + params[coefficient] * np.asarray(x, float) ** -params[exponent]
        return total


CHINCHILLA = PowerSum("chinchilla", inputs=("n", "d"), coefficients=("A", "B"), exponents=("alpha", "beta"))
"""`L = A n^-alpha + B d^-beta + E`: model size n and training data d (Hoffmann et al. 2022, equation 2)."""

POWER = PowerSum("power", inputs=("x",), coefficients=("A",), exponents=("alpha",))
"""`L = A x^-alpha + E`."""

LINE = PowerSum("line", inputs=("x",), coefficients=("A",), exponents=("alpha",), offset=False)
"""`L = A x^-alpha`: a straight line on log-log axes, for when there are too few points to see a floor."""
