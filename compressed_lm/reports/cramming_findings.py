"""What a study says to three questions, in sentences made of its numbers."""

import itertools
import math

import pandas as pd

KEPT_GAIN = 0.95
"""Share of the information gain in float32 that a format has to have for the gain to count as surviving."""


def findings(summary: pd.DataFrame, formats: pd.DataFrame) -> list[str]:
    """Returns sentences on the tables of `study_tables`: is the information gain the same for all sources, what does
    one of several vectors remove, and how few stored bits keep the gain."""
    return [*_sources(summary), *_vectors(summary), *_formats(formats)]


def _sources(summary):
    for k, part in summary[summary["above"] > 1].groupby("k", sort=True):
        if len(part) < 2:
            continue
        rows = part.sort_values("gain").to_dict("records")
        apart = [
            f"{a['source']} and {b['source']}"
            for a, b in itertools.combinations(rows, 2)
            if a["gain_high"] < b["gain_low"]
        ]
        verdict = f"the intervals of {', '.join(apart)} are apart" if apart else "all intervals overlap"
        low, high = rows[0], rows[-1]
        yield (
            f"K = {k}: the information gain is {low['gain']:.1f} bits on {low['source']} and {high['gain']:.1f} on "
            f"{high['source']}, {high['gain'] / low['gain']:.2f} times as many; {verdict}."
        )


def _vectors(summary):
    for source, part in summary[summary["above"] > 0].groupby("source", sort=False):
        part = part.sort_values("k")
        if len(part) < 2:
            continue
        first, last = part.iloc[0], part.iloc[-1]
        change = last["gain_per_vector"] / first["gain_per_vector"] - 1
        yield (
            f"{source}: one of {last['k']} vectors removes {last['gain_per_vector']:.1f} bits, one of {first['k']} "
            f"{first['gain_per_vector']:.1f}: {abs(change):.0%} {'less' if change < 0 else 'more'}."
        )


def _formats(formats):
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
            f"{best['bits_per_number']:.2f} stored bits a number, keeps {best['gain'] / whole:.1%} of the gain, "
            f"{best['bits_per_dimension']:.3f} bits a number."
        )
