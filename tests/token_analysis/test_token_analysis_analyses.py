"""All analyses of token streams together."""

import pandas as pd

from compressed_lm import codecs
from compressed_lm.token_analysis import analyses


def test_analyse_writes_tables_and_figures(tmp_path):
    """Every table and figure is written; each codec has one summary row and one line of progress."""
    text = [b"the quick brown fox jumps over the lazy dog, again and again " * 4] * 40
    lines = []
    summary = analyses.analyse(
        [codecs.Bytes(), codecs.create("gzip(v=256)")],
        text,
        tmp_path / "out",
        fit_documents=text[:5],
        n_prefixes=6,
        n_bits=(1, 8),
        n_partitions=4,
        say=lines.append,
    )
    assert summary["codec"].tolist() == ["bytes", "gzip(v=256)"] and len(lines) == 2
    bytes_row, gzip_row = summary.iloc[0], summary.iloc[1]
    assert bytes_row["distance"] == 0 < gzip_row["distance"]
    assert bytes_row["usual_tokens"] == 1 and bytes_row["bytes_per_token"] == 1
    written = {path.name for path in (tmp_path / "out").iterdir()}
    names = ("prefix_distances", "text_stability", "uniformity", "unigram_gain")
    assert written == {f"{n}.{e}" for n in names for e in ("csv", "png")} | {
        "token_texts.csv",
        "attested_ids.csv",
        "summary.jsonl",
    }
    assert len(pd.read_csv(tmp_path / "out/unigram_gain.csv")) == 4
