"""All analyses of the tokens of several codecs (Lester et al. 2024, table 3 and section 6).

Each analysis returns a small table whose first column `codec` is the codec's spec, so that tables of several codecs can
be concatenated and drawn by `figures`. Only `positions` needs a trained model.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.store import TokenStore
from compressed_lm.io import local_path, open_output, write_atomic
from compressed_lm.token_analysis import figures, positions, stability, token_text, uniformity, unigram
from compressed_lm.token_analysis.windows import ALL_POSITIONS


def analyse(
    codecs: Sequence[Codec],
    documents: Sequence[bytes],
    out_dir: str | os.PathLike,
    *,
    fit_documents: Sequence[bytes] | None = None,
    runs: Mapping[str, tuple[str, TokenStore]] | None = None,
    sentence: bytes = stability.SENTENCE,
    n_prefixes: int = 500,
    text_documents: int = 200,
    text_bytes: int = 1024,
    min_count: int = 5,
    n_bits: Sequence[int] = (1, 2, 4, 8, 12, 16),
    n_partitions: int = 20,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Runs all analyses of several codecs on the same documents and writes tables and figures into a folder.

    Files: `prefix_distances`, `token_texts`, `text_stability`, `attested_ids`, `uniformity`, `unigram_gain` and, with
    `runs`, `token_positions` as CSV; the summary as `summary.jsonl`; and the figures of `figures.FIGURES` as PNG.

    Args:
        codecs: the codecs.
        documents: the text.
        out_dir: output folder, created if missing.
        fit_documents: other text for the unigram model.
        runs: codec spec -> (folder of a trained model, its validation store).
        sentence, n_prefixes: for `prefix_stability`; the prefixes are drawn from the documents.
        text_documents, text_bytes, min_count: `token_texts` and `attested_ids` read the first `text_bytes` bytes of
            this many documents.
        n_bits, n_partitions: for `ngram_uniformity`.
        seed: random seed of the prefixes and the random bits.
        say: called with one line per codec.

    Returns:
        One row per codec: `codec`, `bytes_per_token`, `distance` (median over pairs of prefixes), `usual_tokens`,
        `stable_ids` and `repeated` (all positions), `kl_aligned` and `kl_control` (median, bits per n-gram of the
        largest n up to 8, for which short texts are enough), `uniform`, `unigram`, `gain` (bits per byte, fitted on
        the same documents).
    """
    out_dir = local_path(out_dir, "The folder of the tables")
    prefixes = stability.random_prefixes(documents, n_prefixes, seed=seed)
    heads = [document[:text_bytes] for document in documents[:text_documents]]
    tables: dict[str, list[pd.DataFrame]] = {}
    summary = []
    for number, codec in enumerate(codecs, 1):
        sequences, head_ids = codec.encode_batch(documents), codec.encode_batch(heads)
        fit = None if fit_documents is None else codec.encode_batch(fit_documents)
        pairs = stability.prefix_stability(codec, sentence, prefixes)
        texts = token_text.texts_of_ids(codec, head_ids, min_count=min_count, max_ids=2048)
        found = {
            "prefix_distances": stability.distance_histogram(pairs),
            "token_texts": texts,
            "text_stability": token_text.text_stability(texts),
            "attested_ids": token_text.attested_of_ids(codec, head_ids),
            "uniformity": uniformity.uniformity_of_ids(
                codec, np.concatenate(sequences), n_bits, n_partitions=n_partitions, seed=seed
            ),
            "unigram_gain": unigram.gain_of_ids(codec, sequences, sum(map(len, documents)), fit),
        }
        if runs and codec.spec in runs:
            run_dir, store = runs[codec.spec]
            found["token_positions"] = positions.run_bits_by_token_position(run_dir, codec, store)
        for name, table in found.items():
            tables.setdefault(name, []).append(table)
        summary.append(_summary(codec, pairs, found))
        values = ", ".join(f"{k} {v:.4g}" for k, v in summary[-1].items() if k != "codec")
        say(f"[{number} of {len(codecs)}] {codec.spec}: {values}")
    for name, parts in tables.items():
        table = pd.concat(parts, ignore_index=True)
        write_atomic(out_dir / f"{name}.csv", table.to_csv(index=False))
        if name in figures.FIGURES:
            with open_output(out_dir / f"{name}.png") as file:
                figures.FIGURES[name](table).savefig(file, format="png", dpi=150)
    out = pd.DataFrame(summary)
    write_atomic(out_dir / "summary.jsonl", out.to_json(orient="records", lines=True))
    return out


def _summary(codec: Codec, pairs: pd.DataFrame, found: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    gain = found["unigram_gain"].iloc[0]
    stability = found["text_stability"].set_index("position")
    uniformity = found["uniformity"]
    n = max((n for n in uniformity["n_bits"] if n <= 8), default=uniformity["n_bits"].min())
    divergence = uniformity[(uniformity["kind"] == "aligned") & (uniformity["n_bits"] == n)].iloc[0]
    whole = stability.loc[ALL_POSITIONS] if ALL_POSITIONS in stability.index else {}
    return {
        "codec": codec.spec,
        "bytes_per_token": gain["n_bytes"] / max(gain["n_tokens"], 1),
        "distance": pairs["distance"].median(),
        "usual_tokens": whole.get("usual_tokens", math.nan),
        "stable_ids": whole.get("stable_ids", math.nan),
        "repeated": found["attested_ids"]["repeated"].iloc[0],
        "kl_aligned": divergence["p50"],
        "kl_control": divergence["control_p50"],
        **gain[["uniform", "unigram", "gain"]],
    }
