"""Tables of a cramming study: capacity and gains for each source and K, and by format."""

import math
from collections.abc import Sequence

import pandas as pd

from compressed_lm.cramming import metrics

_TEXT = ["source", "k", "length", "text"]
COMPRESSORS = {
    "zlib_bytes": "zlib",
    "bz2_bytes": "bz2",
    "lzma_bytes": "lzma",
    "huffman_bytes": "Huffman",
    "m1_bytes": "arithmetic coding, byte model",
    "ac_bytes": "arithmetic coding, this model",
}
"""Columns of a text's compressed sizes, and their headings."""

BITS_ASSUMED = 16
"""Bits per number in the paper's theoretical capacity."""


def frame(rows: Sequence[dict]) -> pd.DataFrame:
    """Returns the rows of results.jsonl with derived columns.

    They are `accuracy`, `token_gain` (tokens), `gain` (bits), and `above`: whether the text is above capacity in
    float32. In all formats, mean gains are over these texts.
    """
    table = pd.DataFrame(rows)
    table = table.assign(
        accuracy=table["right"] / table["length"],
        token_gain=table["right"] - table["right_alone"],
        gain=table["bits_alone"] - table["bits"],
    )
    dense = table[(table["format"] == "dense") & ~table["trained"]]
    dense = dense.assign(above=metrics.above_capacity(dense["accuracy"]))
    return table.merge(dense[[*_TEXT, "above"]], on=_TEXT, validate="many_to_one")


def summary(table: pd.DataFrame, *, vocab_size: int, format: str = "dense", trained: bool = False) -> pd.DataFrame:
    """Returns a row for each source and K, in one format.

    Args:
        table: table of `frame`.
        vocab_size: V, for the theoretical capacity.
        format, trained: rows to use.

    Returns:
        `source`, `k`; `capacity` (tokens, teacher-forced, threshold 0.99) with `capacity_low` and `capacity_high`;
        `greedy_capacity`, the same with the share of exact texts instead of the accuracy;
        `above`, the number of texts above capacity (all lengths); gains are means over these;
        `token_gain` and `gain` (bits), each with its interval; `gain_per_vector`, `bits_per_dimension`; `theoretical`
        (tokens at 16 bits a number) and `utilisation`; `stored_bytes`.
    """
    rows = []
    chosen = table[(table["format"] == format) & (table["trained"] == trained)]
    for (source, k), part in chosen.groupby(["source", "k"], sort=False):
        above = part[part["above"]]
        tokens, gain = metrics.mean(above["token_gain"]), metrics.mean(above["gain"])
        capacity, exact = (_capacity(part, column) for column in ("accuracy", "exact"))
        dimensions = int(part["dimensions"].iloc[0])
        theoretical = metrics.theoretical_capacity(dimensions, BITS_ASSUMED, vocab_size)
        rows.append(
            dict(source=source, k=k, capacity=capacity[0], capacity_low=capacity[1], capacity_high=capacity[2])
            | dict(greedy_capacity=exact[0], greedy_low=exact[1], greedy_high=exact[2], above=len(above))
            | dict(token_gain=tokens.value, token_gain_low=tokens.low, token_gain_high=tokens.high)
            | dict(gain=gain.value, gain_low=gain.low, gain_high=gain.high, gain_per_vector=gain.value / k)
            | dict(bits_per_dimension=metrics.bits_per_dimension(gain.value, dimensions), theoretical=theoretical)
            | dict(utilisation=metrics.utilisation(tokens.value, theoretical))
            | dict(stored_bytes=int(part["stored_bytes"].iloc[0]))
        )
    return pd.DataFrame(rows)


def formats(table: pd.DataFrame, *, vocab_size: int) -> pd.DataFrame:
    """Returns the rows of `summary` for each format.

    Additional columns: `format`, `trained`, `bits_per_number` (stored bits, with scales), and `kept`, the share of the
    texts exact in float32 that are exact in this format.
    """
    parts = []
    exact = _exact(table[(table["format"] == "dense") & ~table["trained"]])
    for (form, trained), part in table.groupby(["format", "trained"], sort=False):
        found = summary(part, vocab_size=vocab_size, format=form, trained=trained)
        shares = []
        for source, k in zip(found["source"], found["k"], strict=True):
            of = exact[(exact["source"] == source) & (exact["k"] == k) & exact["exact"]]
            both = of.merge(_exact(part), on=_TEXT, suffixes=("", "_now"))
            shares.append(float(both["exact_now"].mean()) if len(both) else math.nan)
        dimensions = part.groupby(["source", "k"], sort=False)["dimensions"].first().to_numpy()
        bits = 8 * found["stored_bytes"].to_numpy() / dimensions
        parts.append(found.assign(format=form, trained=trained, bits_per_number=bits, kept=shares))
    return pd.concat(parts, ignore_index=True)


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Returns means over texts in float32 for each source, K and length.

    Columns: `accuracy`, `exact`, `exact_prefix` (tokens), `gain` (bits) with interval, `bits_alone` (bits), `texts`.
    """
    chosen = table[(table["format"] == "dense") & ~table["trained"]]
    columns = ["accuracy", "exact", "exact_prefix", "gain", "bits_alone"]
    groups = chosen.groupby(["source", "k", "length"], sort=False)
    gains = groups["gain"].apply(metrics.mean)
    interval = {f"gain_{end}": gains.map(lambda gain, end=end: getattr(gain, end)) for end in ("low", "high")}
    return groups[columns].mean().assign(**interval, texts=groups.size()).reset_index()


def sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Returns mean bytes at the longest length with at least 99 % exact texts, for each source, K and format.

    The bytes are those of the vectors, of the text, and of the text compressed by each of `COMPRESSORS`; NaN for those
    that an older study lacks. If there is no such length, there is no row.
    """
    keys = ["source", "k", "format", "trained"]
    columns = ["exact", "stored_bytes", "text_bytes", *COMPRESSORS]
    table = table.reindex(columns=[*table.columns, *(set(columns) - set(table.columns))])
    means = table.groupby([*keys, "length"], sort=False)[columns].mean().reset_index()
    fits = means[means["exact"] >= metrics.THRESHOLD]
    return fits.sort_values("length").groupby(keys, sort=False).tail(1).sort_values(keys).reset_index(drop=True)


def _exact(table: pd.DataFrame) -> pd.DataFrame:
    return table[[*_TEXT, "exact"]]


def _capacity(part: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Returns (capacity, low, high); the interval is NaN unless every length has the same texts."""
    values = part.astype({column: float})
    capacity = metrics.decoding_capacity(values["length"], values[column])
    matrix = values.pivot(index="text", columns="length", values=column)
    if matrix.isna().any(axis=None):
        return capacity, math.nan, math.nan
    return capacity, *metrics.capacity_interval(matrix.columns.tolist(), matrix.to_numpy())
