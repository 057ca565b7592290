"""Comparison of two codecs at equal FLOPs per byte, by linear interpolation in log FLOPs."""

import dataclasses

import numpy as np
import pandas as pd

from compressed_lm.errors import InputError
from compressed_lm.scaling.run_table import split_spec


@dataclasses.dataclass(frozen=True)
class BitsAt:
    """Bits per byte of a codec at a given cost; `extrapolated` if the cost is outside its measured range."""

    bits_per_byte: float
    flops_per_byte: float
    extrapolated: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two codecs at the same FLOPs per byte.

    Attributes:
        codec_a, codec_b: their specs.
        flops_per_byte: float64[n], the compared costs, ascending.
        bits_a, bits_b: float64[n], bits per byte at these costs.
        extrapolated: whether a codec was evaluated outside its measured range, because the ranges do not overlap.
        crossing: FLOPs per byte at which the curves cross; None if they do not cross in the shared range.
    """

    codec_a: str
    codec_b: str
    flops_per_byte: np.ndarray
    bits_a: np.ndarray
    bits_b: np.ndarray
    extrapolated: bool
    crossing: float | None

    @property
    def difference(self) -> np.ndarray:
        """Bits per byte of a minus those of b, float64[n]; negative if a is better."""
        return self.bits_a - self.bits_b


def codec_points(runs: pd.DataFrame, codec: str, *, column: str = "flops_per_byte") -> tuple[np.ndarray, np.ndarray]:
    """Returns costs (ascending) and mean bits per byte over seeds of a codec's sizes, two float64[n].

    Raises:
        InputError: the table has no row of this codec.
    """
    wanted = split_spec(codec)
    rows = runs.loc[np.array([split_spec(spec) == wanted for spec in runs["codec"]], bool)]
    if rows.empty:
        known = ", ".join(sorted(set(runs["codec"]))) or "none"
        raise InputError(f"The table has no run of the codec {codec!r}. It has: {known}.")
    points = rows.groupby("n_params").agg(cost=(column, "mean"), bits=("bits_per_byte", "mean")).sort_values("cost")
    return points["cost"].to_numpy(float), points["bits"].to_numpy(float)


def bits_at(runs: pd.DataFrame, codec: str, *, flops_per_byte: float, column: str = "flops_per_byte") -> BitsAt:
    """Returns the bits per byte of a codec at a cost, linear in log FLOPs between sizes, extrapolated outside.

    Args:
        runs: rows of the run table, one per run (see `final_runs`).
        codec: its spec.
        flops_per_byte: the cost.
        column: `flops_per_byte` or `flops_per_byte_softmax`.

    Raises:
        InputError: the table has no row of this codec, or only one size with another cost.
    """
    cost, bits = codec_points(runs, codec, column=column)
    value, outside = _read(cost, bits, np.array([flops_per_byte], float), codec)
    return BitsAt(float(value[0]), float(flops_per_byte), bool(outside[0]))


def compare_at_equal_flops(
    runs: pd.DataFrame, codec_a: str, codec_b: str, *, column: str = "flops_per_byte"
) -> Comparison:
    """Compares two codecs at every measured cost of either within the range of both.

    If the ranges do not overlap, both are compared at one cost: the middle of the gap (in log FLOPs), or the only size
    of one codec. The result is then marked as `extrapolated`.

    Raises:
        InputError: a codec has no row, or both have a single size and these differ in cost.
    """
    cost_a, bits_a = codec_points(runs, codec_a, column=column)
    cost_b, bits_b = codec_points(runs, codec_b, column=column)
    low, high = max(cost_a[0], cost_b[0]), min(cost_a[-1], cost_b[-1])
    if low <= high:
        at = np.unique(np.concatenate([cost_a, cost_b]))
        at = at[(at >= low) & (at <= high)]
    else:
        # A codec with one size is known at its measured cost only.
        alone = [cost[0] for cost in (cost_a, cost_b) if len(cost) == 1]
        at = np.array([alone[0] if alone else np.sqrt(low * high)])
    read_a, outside_a = _read(cost_a, bits_a, at, codec_a)
    read_b, outside_b = _read(cost_b, bits_b, at, codec_b)
    return Comparison(
        codec_a, codec_b, at, read_a, read_b, bool((outside_a | outside_b).any()), _crossing(at, read_a - read_b)
    )


def _read(cost: np.ndarray, bits: np.ndarray, at: np.ndarray, codec: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns bits per byte at the costs `at`, and which of these are outside the measured range."""
    outside = (at < cost[0] * (1 - 1e-9)) | (at > cost[-1] * (1 + 1e-9))
    if len(cost) == 1:
        if outside.any():
            raise InputError(
                f"The codec {codec!r} was run in one size only, at {cost[0]:.4g} FLOPs per byte, so its bits per byte "
                f"at {at[outside][0]:.4g} are unknown. Run another size of it."
            )
        return np.full(len(at), bits[0]), outside
    log_cost, log_at = np.log(cost), np.log(at)
    segment = np.clip(np.searchsorted(log_cost, log_at) - 1, 0, len(cost) - 2)
    share = (log_at - log_cost[segment]) / (log_cost[segment + 1] - log_cost[segment])
    return bits[segment] + share * (bits[segment + 1] - bits[segment]), outside


def _crossing(at: np.ndarray, difference: np.ndarray) -> float | None:
    """Returns the first cost at which the piecewise log-linear difference changes its sign."""
    for k in range(len(at) - 1):
        left, right = difference[k], difference[k + 1]
        if left * right < 0:
            return float(at[k] * (at[k + 1] / at[k]) ** (left / (left - right)))
    return None
