"""Two codecs at equal FLOPs per byte: straight lines over log FLOPs join the sizes of each."""

import dataclasses

import numpy as np
import pandas as pd

from compressed_lm.errors import InputError
from compressed_lm.scaling.run_table import split_spec


@dataclasses.dataclass(frozen=True)
class BitsAt:
    """Bits per byte of a codec at a given cost; `extrapolated` where no two measured sizes enclose that cost."""

    bits_per_byte: float
    flops_per_byte: float
    extrapolated: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two codecs read at the same FLOPs per byte.

    Attributes:
        codec_a, codec_b: their spellings.
        flops_per_byte: float64[n], the costs at which both were read, ascending.
        bits_a, bits_b: float64[n], bits per byte there.
        extrapolated: whether one of the two was read outside its measured range, because the ranges share no cost.
        crossing: FLOPs per byte at which the two curves cross, None where they do not inside the shared range.
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
        """float64[n]: bits per byte of a minus those of b; negative where a is better."""
        return self.bits_a - self.bits_b


def codec_points(runs: pd.DataFrame, codec: str, *, column: str = "flops_per_byte") -> tuple[np.ndarray, np.ndarray]:
    """Costs (ascending) and mean bits per byte over seeds of a codec's sizes, two float64[n].

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
    """Bits per byte of a codec at a cost: linear in log FLOPs between its sizes, extended along the nearest segment.

    Args:
        runs: rows of the run table, one per run (see `final_runs`).
        codec: its spelling.
        flops_per_byte: where to read.
        column: `flops_per_byte` or `flops_per_byte_softmax`.

    Raises:
        InputError: the table has no row of this codec, or only one size and another cost is asked for.
    """
    cost, bits = codec_points(runs, codec, column=column)
    value, outside = _read(cost, bits, np.array([flops_per_byte], float), codec)
    return BitsAt(float(value[0]), float(flops_per_byte), bool(outside[0]))


def compare_at_equal_flops(
    runs: pd.DataFrame, codec_a: str, codec_b: str, *, column: str = "flops_per_byte"
) -> Comparison:
    """Both codecs at every measured cost of either that lies inside the range of both.

    Where the ranges share no cost, both are read once, half way (in the log) across the gap or at the only size of one
    of them, and the result says `extrapolated`.

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
        # A codec of one size can only be read where it was measured.
        alone = [cost[0] for cost in (cost_a, cost_b) if len(cost) == 1]
        at = np.array([alone[0] if alone else np.sqrt(low * high)])
    read_a, outside_a = _read(cost_a, bits_a, at, codec_a)
    read_b, outside_b = _read(cost_b, bits_b, at, codec_b)
    return Comparison(
        codec_a, codec_b, at, read_a, read_b, bool((outside_a | outside_b).any()), _crossing(at, read_a - read_b)
    )


def _read(cost: np.ndarray, bits: np.ndarray, at: np.ndarray, codec: str) -> tuple[np.ndarray, np.ndarray]:
    """Bits per byte at the costs `at`, and which of these lie outside the measured range."""
    outside = (at < cost[0] * (1 - 1e-9)) | (at > cost[-1] * (1 + 1e-9))
    if len(cost) == 1:
        if outside.any():
            raise InputError(
                f"The codec {codec!r} was run in one size only, at {cost[0]:.4g} FLOPs per byte, so nothing is known "
                f"of it at {at[outside][0]:.4g}. Run another size of it."
            )
        return np.full(len(at), bits[0]), outside
    log_cost, log_at = np.log(cost), np.log(at)
    segment = np.clip(np.searchsorted(log_cost, log_at) - 1, 0, len(cost) - 2)
    share = (log_at - log_cost[segment]) / (log_cost[segment + 1] - log_cost[segment])
    return bits[segment] + share * (bits[segment + 1] - bits[segment]), outside


def _crossing(at: np.ndarray, difference: np.ndarray) -> float | None:
    """The first cost at which the piecewise log-linear difference changes its sign."""
    for k in range(len(at) - 1):
        left, right = difference[k], difference[k + 1]
        if left * right < 0:
            return float(at[k] * (at[k + 1] / at[k]) ** (left / (left - right)))
    return None
