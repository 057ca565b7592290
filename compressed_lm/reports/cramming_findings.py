"""Findings of a cramming study, as sentences computed from its numbers."""

import itertools
import math
from collections.abc import Iterator

import pandas as pd

KEPT_GAIN = 0.95
"""A format keeps the information gain if it has at least this share of the gain in float32."""


def findings(summary: pd.DataFrame, formats: pd.DataFrame) -> list[str]:
    """Returns sentences on three questions.

    They are: whether the information gain is the same for all sources, the gain per vector, and the fewest stored bits
    that keep the gain.

    Args:
        summary: table of `cramming_tables.summary`.
        formats: table of `cramming_tables.formats`.
    """
    return [*_sources(summary), *_vectors(summary), *_formats(formats)]


def _sources(summary: pd.DataFrame) -> Iterator[str]:
    for k, part in summary[summary["above"] > 1].groupby("k", sort=True):
        if len(part) < 2:
            continue
        rows = part.sort_values("gain").to_dict("records")
        apart = [
            f"{a['source']} and {b['source']}"
            for a, b in itertools.combinations(rows, 2)
            if a["gain_high"] < b["gain_low"]
        ]
        verdict = f"the intervals of {', '.join(apart)} do not overlap" if apart else "all intervals overlap"
        low, high = rows[0], rows[-1]
        yield (
            f"K = {k}: the information gain is {low['gain']:.1f} bits on {low['source']} and {high['gain']:.1f} on "
            f"{high['source']}, {high['gain'] / low['gain']:.2f} times as many; {verdict}."
        )


def _vectors(summary: pd.DataFrame) -> Iterator[str]:
    for source, part in summary[summary["above"] > 0].groupby("source", sort=False):
        part = part.sort_values("k")
        if len(part) < 2:
            continue
        first, last = part.iloc[0], part.iloc[-1]
        change = last["gain_per_vector"] / first["gain_per_vector"] - 1
        yield (
            f"{source}: the gain per vector is {last['gain_per_vector']:.1f} bits with K = {last['k']} and "
            f"{first['gain_per_vector']:.1f} with K = {first['k']}: {abs(change):.0%} "
            f"{'less' if change < 0 else 'more'}."
        )


def _formats(formats: pd.DataFrame) -> Iterator[str]:
    for (source, k), part in formats[formats["above"] > 0].groupby(["source", "k"], sort=False):
        whole = part[(part["format"] == "dense") & ~part["trained"]]["gain"].iloc[0]
        good = part[(part["gain"] >= KEPT_GAIN * whole) & (part["format"] != "dense")]
        if len(part) < 2 or not whole > 0 or math.isnan(whole):
            continue
        if good.empty:
            yield f"{source}, K = {k}: no format keeps {KEPT_GAIN:.0%} of the information gain in float32."
            continue
        best = good.sort_values("bits_per_number").iloc[0]
        yield (
            f"{source}, K = {k}: {best['format']}{' (trained)' if best['trained'] else ''}, "
            f"{best['bits_per_number']:.2f} stored bits per number, keeps {best['gain'] / whole:.1%} of the gain, "
            f"{best['bits_per_dimension']:.3f} bits per number."
        )
