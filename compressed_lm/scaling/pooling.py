"""Check that the runs of a fit do not differ in compression that the law ignores."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from compressed_lm.errors import InputError
from compressed_lm.scaling.laws import DATA, SIZE, PowerSum

# Kinds of compression and their columns. If a law reads one column of a kind, the other columns of the kind (such as
# two names for the same error) may differ.
_KINDS = {
    "weights": r"weights?|format|scheme|sparsity|post_bits|gmse|gmse_w(eights?)?|w(eights?)?_(bits|format|quant\w*)",
    "activations": r"activations?|gmse_a(ctivations?)?|a(ctivations?)?_(bits|format|quant\w*)",
    "key-value cache": r"kv(_cache)?|gmse_kv|kv_(bits|format|quant\w*)",
    "representation": r"representation|quantiz\w*|precision|dtype",
    "packing": r"packed",
    "text": r"codec|tokenizer|vocabulary",
}
# Used only if the kind has no other column, because bits per weight vary with the shape of a matrix.
_ONLY_ALONE = {"weights": ("bits_per_weight",), "activations": ("bits_per_activation",)}
_DENSE = ("dense", "none", "noquantizer", "float32", "bfloat16", "false", "0", "0.0", "16", "32", "inf", "bytes")
_ALIKE = {  # column of the weights -> column of the activations for a product of capacities
    "gmse_weights": "gmse_activations",
    "gmse_w": "gmse_a",
    "weights": "activations",
    "w_bits": "a_bits",
    "weight_bits": "activation_bits",
}
_KEYWORDS = {"tanh": "gmse", "logistic": "gmse", "logistic10": "gmse", "decoupled": "format", "frantar2025": "format"}


def check(law: PowerSum, names: Mapping[str, str], runs: pd.DataFrame) -> None:
    """Refuses a table whose rows differ in compression that the law does not read.

    A column of compression may vary if the law reads it, if the law reads another column of its kind (`weights` and
    `gmse_weights`), or if the columns of the law determine it (activations with as many bits as the weights).

    Args:
        law: the law to fit.
        names: the table's name of each column of the law.
        runs: the rows to fit.

    Raises:
        InputError: different kinds of runs are mixed; the message says which, and what to do.
    """
    runs = pd.DataFrame(runs).drop(columns=[names[name] for name in (SIZE, DATA, "loss") if name in names])
    read = [names[name] for name in law.columns if name not in (SIZE, DATA, "x")]
    known = {kind for name in read for kind in (_kind(name),) if kind}
    if read and not known:
        known = {"weights"}  # a column with another name
    if "representation" in known:
        known |= {"weights", "activations", "key-value cache"}
    groups = _labels(runs, read)
    pooled: dict[str, list[str]] = {}
    kinds = _columns(runs)
    for kind, columns in kinds.items():
        if kind in known or (kind == "representation" and {"weights", "activations"} <= kinds.keys()):
            continue
        free = [column for column in columns if _varies(runs[column], groups)]
        tied = [c for c in columns if c not in free and runs[c].map(_text).nunique() > 1 and _is_measure(runs[c])]
        if free and not tied:
            pooled[free[0]] = free
    if pooled:
        raise InputError(_message(law, read, pooled, runs))


def _kind(column: str) -> str | None:
    return next((kind for kind, names in _KINDS.items() if re.fullmatch(names, str(column).lower())), None)


def _columns(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Returns kind -> columns of this kind, in the table's order."""
    found: dict[str, list[str]] = {}
    for column in runs:
        if kind := _kind(column):
            found.setdefault(kind, []).append(column)
    for kind, columns in _ONLY_ALONE.items():
        here = [column for column in columns if column in runs]
        if here and kind not in found:
            found[kind] = here
    return found


def _text(value: object) -> str:
    """Returns a value as text for comparison; numbers with six digits, because errors are computed values."""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return f"{float(value):.6g}"
    return str(value)


def _labels(runs: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Returns one text per row for the values of several columns."""
    parts = [runs[column].map(_text) for column in columns]
    return pd.Series(["\0".join(row) for row in zip(*parts, strict=True)] if parts else "", index=runs.index)


def _varies(values: pd.Series, groups: pd.Series) -> bool:
    """Returns whether rows of one group have different values."""
    return bool((values.map(_text).groupby(groups.to_numpy()).nunique() > 1).any())


def _is_measure(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _message(law: PowerSum, read: list[str], pooled: dict[str, list[str]], runs: pd.DataFrame) -> str:
    """Returns the error message: what differs, and what to do.

    Args:
        law: the law to fit.
        read: columns that the law reads.
        pooled: main column of each mixed kind -> all its columns that vary.
        runs: the rows to fit.
    """
    said = [f"{column} ({_counts(runs[column])})" for column in pooled]
    one_kind = " and ".join(_condition(column, runs[column]) for column in pooled)
    choices = [
        f'Fit one kind of runs, --where "{one_kind}" (in Python, runs.query)',
        *_read_instead(law, read, pooled, runs),
    ]
    constant = " ".join(f"--let \"{_quoted(column)} = 'any'\"" for free in pooled.values() for column in free)
    return (
        f"The rows differ in {' and in '.join(said)}, which the law {law.name!r} does not read: it would mix runs of "
        f"different kinds. {'; or '.join(choices)}. If the difference does not matter, make the column constant: "
        f"{constant} (runs.assign)."
    )


def _counts(values: pd.Series) -> str:
    counts = values.map(_text).value_counts()
    more = ", ..." if len(counts) > 4 else ""
    return ", ".join(f"{value}: {n} rows" for value, n in counts.head(4).items()) + more


def _quoted(column: str) -> str:
    return str(column) if str(column).isidentifier() else f"`{column}`"


def _condition(column: str, values: pd.Series) -> str:
    """Returns a pandas expression for the uncompressed rows, or for the most frequent ones."""
    texts = values.map(_text)
    dense = values[texts.str.lower().isin(_DENSE)]
    value = dense.iloc[0] if len(dense) else values[texts == texts.value_counts().index[0]].iloc[0]
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return f"{_quoted(column)}.isna()"
    return f"{_quoted(column)} == {value.item() if isinstance(value, np.generic) else value!r}"


def _read_instead(law: PowerSum, read: list[str], pooled: dict[str, list[str]], runs: pd.DataFrame) -> list[str]:
    """Returns options with which this law, or another one, reads the columns that differ."""
    kinds = {_kind(column) for column in pooled}
    keyword = _KEYWORDS.get(law.name, "bits" if law.name == "kumar" else None)
    if kinds == {"activations"} and keyword and len(read) == 1 and _ALIKE.get(read[0]) in runs:
        more = f"{keyword}={read[0]},{_ALIKE[read[0]]}"
        few = runs[_ALIKE[read[0]]].nunique() < 4 and keyword == "gmse"
        return [f"let the law read both, --column {more}{' --shared' if few else ''}"]
    if kinds == {"weights"} and not read:
        if "gmse" in runs or "gmse_weights" in runs:
            return ["fit a law with capacities, --law tanh"]
        if "weights" in runs or "format" in runs:
            return ["fit a law with a capacity for each format, --law decoupled"]
    return []
