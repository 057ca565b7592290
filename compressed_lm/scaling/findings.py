"""Predictions of the theory of Equal-Info Windows (Lester et al. 2024), checked against the numbers of a run."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from compressed_lm.errors import InputError
from compressed_lm.formatting import si
from compressed_lm.scaling.compare import compare_at_equal_flops
from compressed_lm.scaling.run_table import final_runs, split_spec

HOLDS = "holds"
FAILS = "does not hold here"
UNKNOWN = "not measured"

_CODER_TOLERANCE = 0.02  # relative to M1's bits per byte: quantised tables, termination and context window
_NOTHING_LEARNED = 0.05  # relative to the uniform code's bits per byte
_SEED_NOISE = 0.01  # bits per byte; seeds alone changed them by up to 0.006 in Lester et al. 2024, table 11
_PLAIN, _ALIGNED = "eiw(b=12,v=4096)", "eiw(align=word,b=12,v=4096)"
_COSTS = {
    "flops_per_byte": "with M1, without softmax, as in Lester et al.",
    "flops_per_byte_softmax": "with M1 and softmax",
    "flops_per_byte_runtime": "as run: M1 compiled to a dictionary, without softmax",
}


class Finding(NamedTuple):
    """Verdict on one prediction.

    Attributes:
        claim: the prediction.
        verdict: `holds`, `does not hold here` or `not measured`.
        detail: the numbers, in sentences.
    """

    claim: str
    verdict: str
    detail: str


def check_theory(runs: pd.DataFrame, ratios: pd.DataFrame) -> list[Finding]:
    """Returns one finding per prediction; verdicts are computed from the two tables.

    Args:
        runs: the run table; final rows are used, except rows with `group` "m1".
        ratios: `codec`, `vocab_size`, `bytes_per_token`, and `m1_bits_per_byte` if M1 codes the text (otherwise NaN).
    """
    models = model_runs(runs)
    return [
        _coder_reaches_entropy(ratios),
        _windows_between(ratios),
        _nothing_to_learn(models, ratios),
        *(_beats_bytes(models, column) for column in _COSTS if column in models),
        _alignment_same_model(models),
        _alignment_equal_flops(models),
    ]


def model_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the last final row of each run that compares codecs; runs of M1 itself are excluded."""
    final = final_runs(runs)
    return final[final["group"] != "m1"].reset_index(drop=True) if "group" in final else final


def bits_per_byte_of_text(ratios: pd.DataFrame) -> pd.Series:
    """Returns log2(V) / bytes per token, the bits per byte of a uniform model over tokens (8 / ratio for V = 256)."""
    return np.log2(ratios["vocab_size"].astype(float)) / ratios["bytes_per_token"]


def _coder_reaches_entropy(ratios: pd.DataFrame) -> Finding:
    claim = (
        f"Arithmetic coding reaches M1's entropy: 8 / ratio of `ac(v=256)` is within {_CODER_TOLERANCE:.0%} of "
        "M1's own bits per byte."
    )
    row = _ratio(ratios, "ac(v=256)")
    m1 = None if row is None else row.get("m1_bits_per_byte")
    if row is None or m1 is None or not m1 > 0:
        return Finding(
            claim, UNKNOWN, "The ratio of ac(v=256) and M1's bits per byte on the same bytes are both needed."
        )
    coded = 8 / row["bytes_per_token"]
    gap = coded / m1 - 1
    detail = f"8 / {row['bytes_per_token']:.3f} = {coded:.3f} bits per byte against M1's {m1:.3f}: {gap:+.1%}."
    return Finding(claim, HOLDS if abs(gap) <= _CODER_TOLERANCE else FAILS, detail)


def _windows_between(ratios: pd.DataFrame) -> Finding:
    claim = (
        "Resetting M1 at each window loses part of its compression: `eiw(b=16)` is between `static_ac` and `ac` in "
        "bytes per token."
    )
    rows = [_ratio(ratios, codec) for codec in ("static_ac(v=256)", "eiw(b=16,v=256)", "ac(v=256)")]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        return Finding(claim, UNKNOWN, "The ratios of static_ac(v=256), eiw(b=16,v=256) and ac(v=256) are all needed.")
    static, windows, full = (float(row["bytes_per_token"]) for row in known)
    detail = f"static_ac {static:.3f}, eiw {windows:.3f}, ac {full:.3f} bytes per token, all with v=256."
    return Finding(claim, HOLDS if static < windows < full else FAILS, detail)


def _nothing_to_learn(models: pd.DataFrame, ratios: pd.DataFrame) -> Finding:
    claim = (
        "A second model over plain arithmetic coding learns almost nothing: it saves less than "
        f"{_NOTHING_LEARNED:.0%} of the bits of a uniform model over the tokens."
    )
    row, rows = _ratio(ratios, "ac(v=256)"), _rows(models, "ac(v=256)")
    if row is None or rows.empty:
        return Finding(claim, UNKNOWN, "A model trained on ac(v=256) and the ratio of this codec are both needed.")
    uniform, best = 8 / row["bytes_per_token"], float(rows["bits_per_byte"].min())
    saved = 1 - best / uniform
    detail = f"Uniform model {uniform:.3f}, M2 {best:.3f} bits per byte: "
    detail += (
        f"{saved:.1%} saved."
        if saved > 0
        else f"nothing saved, {-saved:.1%} more (its vocabulary also contains end-of-document)."
    )
    return Finding(claim, HOLDS if saved < _NOTHING_LEARNED else FAILS, detail)


def _beats_bytes(models: pd.DataFrame, column: str) -> Finding:
    claim = f"`{_PLAIN}` beats `bytes` in bits per byte at equal FLOPs per byte ({_COSTS[column]})."
    return _at_equal_flops(claim, models, _PLAIN, "bytes", column)


def _alignment_same_model(models: pd.DataFrame) -> Finding:
    claim = (
        "Word alignment makes windows easier to learn: it lowers the bits per byte at equal model size and number of "
        "tokens."
    )
    plain, aligned = _rows(models, _PLAIN), _rows(models, _ALIGNED)
    shared = sorted(set(plain["n_nonembed"]) & set(aligned["n_nonembed"]))
    if not shared:
        return Finding(claim, UNKNOWN, f"{_PLAIN} and {_ALIGNED} trained at one size are needed.")
    pairs = [
        [float(rows.loc[rows["n_nonembed"] == size, "bits_per_byte"].mean()) for rows in (aligned, plain)]
        for size in shared
    ]
    parts = [
        f"{size:,} parameters: {new:.3f} with, {old:.3f} without ({new - old:+.3f})"
        for size, (new, old) in zip(shared, pairs, strict=True)
    ]
    difference = np.array([new - old for new, old in pairs])
    return Finding(claim, HOLDS if (difference < 0).all() else FAILS, "; ".join(parts) + "." + _noise(difference))


def _alignment_equal_flops(models: pd.DataFrame) -> Finding:
    claim = (
        "The gain from word alignment exceeds its loss of compression: it lowers the bits per byte at equal FLOPs per "
        "byte."
    )
    return _at_equal_flops(claim, models, _ALIGNED, _PLAIN, "flops_per_byte")


def _at_equal_flops(claim: str, models: pd.DataFrame, new: str, old: str, column: str) -> Finding:
    """Returns the finding that `new` has fewer bits per byte than `old` at every cost at which both are known."""
    try:
        result = compare_at_equal_flops(models, new, old, column=column)
    except InputError as error:
        return Finding(claim, UNKNOWN, str(error))
    at, difference = result.flops_per_byte, result.difference
    best, worst, middle = difference.min(), difference.max(), len(at) // 2
    if len(at) == 1:
        detail = f"At {si(at[0])} FLOPs per byte: {result.bits_a[0]:.3f} against {result.bits_b[0]:.3f} "
        detail += f"bits per byte ({worst:+.3f})."
    else:
        detail = f"At {len(at)} costs from {si(at[0])} to {si(at[-1])} FLOPs per byte: "
        detail += f"{best:+.3f} to {worst:+.3f} bits per byte (at {si(at[middle])}: "
        detail += f"{result.bits_a[middle]:.3f} against {result.bits_b[middle]:.3f})."
    if result.crossing is not None:
        cheaper, dearer = (new, old) if difference[0] < 0 else (old, new)
        detail += f" The curves cross at {si(result.crossing)} FLOPs per byte: below it {cheaper} is better, "
        detail += f"above it {dearer}."
    if result.extrapolated:
        detail += " The measured costs of the two do not overlap, so this is an extrapolation."
    return Finding(claim, HOLDS if worst < 0 else FAILS, detail + _noise(difference))


def _noise(difference: np.ndarray) -> str:
    small = np.abs(difference).min() < _SEED_NOISE
    return f" Differences below {_SEED_NOISE} can be due to the seed alone." if small else ""


def _rows(models: pd.DataFrame, codec: str) -> pd.DataFrame:
    wanted = split_spec(codec)
    return models.loc[np.array([split_spec(spec) == wanted for spec in models["codec"]], bool)]


def _ratio(ratios: pd.DataFrame, codec: str) -> pd.Series | None:
    if ratios.empty:
        return None
    rows = _rows(ratios, codec)
    return None if rows.empty else rows.iloc[-1]
