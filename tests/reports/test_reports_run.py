"""The run report is one self-contained page, made from a run directory, and safe for any generated text."""

import base64
import json
import re

import pandas as pd
import pytest

from compressed_lm.errors import InputError
from compressed_lm.reports.page import Figure, Sample
from compressed_lm.reports.run import check_theory, report, write_report
from compressed_lm.scaling import append_row

CODECS = {"bytes": (1.0, 2.4), "static_ac(v=256)": (1.6, 4.8), "ac(v=256)": (3.2, 2.5), "eiw(b=12,v=4096)": (3.0, 2.45)}


def make_run(path, *, optional=True):
    """A small run directory: four codecs, bytes in two sizes, M1."""
    models = [("m1", "bytes", 500_000, 2.36, "m1"), ("small", "bytes", 100_000, 2.7, "sizes")]
    models += [(codec, codec, 400_000, bits, "m2") for codec, (_, bits) in CODECS.items()]
    for run, codec, size, bits, group in models:
        length = CODECS[codec][0]
        append_row(
            path / "runs.jsonl",
            {
                "run": run,
                "codec": codec,
                "representation": "float32",
                "n_params": size + 1000,
                "n_nonembed": size,
                "tokens": 1_000_000,
                "bytes": int(1_000_000 * length),
                "flops_per_byte": 2 * size / length,
                "flops_per_byte_softmax": 3 * size / length,
                "loss_nats_per_token": bits * length * 0.693,
                "bits_per_byte": bits,
                "seed": 0,
                "step": 100,
                "final": True,
                "config_hash": "0",
                "versions": {"jax": "0"},
                "bytes_per_token": length,
                "seconds": 65.0,
                "group": group,
            },
        )
    if not optional:
        return

    def lines(name, rows):
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    lines(
        "curves.jsonl",
        [
            {"codec": c, "n_params": 401_000, "step": s, "tokens": s, "bytes": s * 10, "bits_per_byte": bits + 1 / s}
            for c, (_, bits) in CODECS.items()
            for s in (1, 10, 100)
        ],
    )
    lines(
        "ratios.jsonl",
        [
            {
                "codec": c,
                "vocab_size": 256,
                "bytes_per_token": x,
                "bits_per_byte_of_text": 8 / x,
                "m1_bits_per_byte": m1,
            }
            for (c, (x, _)), m1 in zip(CODECS.items(), (None, None, 2.49, None), strict=True)
        ],
    )
    lines("stages.jsonl", [{"name": "corpus", "seconds": 125, "line": "20 MB | <b>of</b> text"}])
    (path / "samples.json").write_text(json.dumps({"bytes": "<script>alert(1)</script> ```` \x00\x1b[0m"}))
    (path / "meta.json").write_text(json.dumps({"corpus": "installed_docs", "validation_bytes": 1_048_576}))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    make_run(path)
    return report(path)


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of the time of a report; tests of the text do without."""
    monkeypatch.setattr(Figure, "picture", lambda *_, **__: b"")


def test_html_is_self_contained(written):
    """The page loads no files and has no script; pictures are inside, in a light and a dark version."""
    html = written.html.read_text()
    assert not re.search(r'(src|href|srcset)="(?!data:image/svg\+xml;base64,|#)', html)
    assert "<script" not in html and "@import" not in html and "url(" not in html
    pictures = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", html)
    assert len(pictures) == 2 * len(written.figures) == 12
    assert all(base64.b64decode(picture).startswith(b"<?xml") for picture in pictures)
    anchors = re.findall(r'href="#([^"]+)"', html)
    assert len(anchors) >= 8 and all(f'id="{anchor}"' in html for anchor in anchors)


def test_markdown_names_figures_that_exist(written):
    """report.md has the same tables and links PNG files in the same folder."""
    text = written.markdown.read_text()
    names = re.findall(r"\]\((figures/[^)]+\.png)\)", text)
    assert [written.markdown.parent / name for name in names] == list(written.figures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written.figures)
    assert "| `eiw(b=12,v=4096)` | 400k | 3.00 | 2.450 | 267k | 400k | 1M | 3 MB | 1 min 5 s |" in text
    assert "**2.400** bits per byte, the lowest, by `bytes`" in text
    assert "8 / 3.200 = 2.500 bits per byte against M1's 2.490: +0.4%." in text
    assert "M1 itself, 500k parameters trained on bytes, reaches 2.360 bits per byte." in text
    assert "| corpus | 2 min 5 s | 20 MB \\| &lt;b>of&lt;/b> text |" in text


def test_generated_text_is_shown_and_escaped(written):
    """Tags, fences and control characters in a sample are shown as text, on both pages."""
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ````" in written.html.read_text()
    assert "`````text\n<script>alert(1)</script> ```` \u2400\u241b[0m\n`````" in written.markdown.read_text()
    assert Sample("x", "a\ud800b").markdown() == "x\n\n```text\na\ufffdb\n```"


def test_report_is_reproducible(written, tmp_path):
    """The same run directory gives the same bytes of every file."""
    make_run(tmp_path)
    again = report(tmp_path)
    assert again.html.read_bytes() == written.html.read_bytes()
    assert [path.read_bytes() for path in again.figures] == [path.read_bytes() for path in written.figures]


def test_optional_files_may_be_missing(tmp_path, no_pictures):
    """With runs.jsonl alone, the report is written and says what it cannot show."""
    make_run(tmp_path, optional=False)
    text = report(tmp_path).markdown.read_text()
    assert "Not shown: this run recorded no evaluations during training (`curves.jsonl`)." in text
    assert "Not shown: this run recorded no compression ratios (`ratios.jsonl`)." in text
    assert "not measured" in text and "## Generated text" not in text


def test_models_that_differ_are_not_called_equal(tmp_path, no_pictures):
    """The sentence that only the codec differs appears only when sizes and training tokens agree."""
    make_run(tmp_path, optional=False)
    assert "there only the codec differs" in report(tmp_path).markdown.read_text()
    table = (tmp_path / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(table.replace('"tokens": 1000000', '"tokens": 900000', 4))
    assert "compare with care" in report(tmp_path).markdown.read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("curves.jsonl", '{"codec": "bytes"}\n', "curves.jsonl line 1 lacks n_params, step"),
        ("ratios.jsonl", "oops\n", "ratios.jsonl line 1 is not a JSON object"),
        ("meta.json", "{", "meta.json cannot be read as a JSON object"),
        ("samples.json", "[]", "samples.json cannot be read as a JSON object .*an object was expected"),
        ("runs.jsonl", '{"run": "x"}\n', "runs.jsonl line 1 lacks the column"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    """A file that cannot be read is an error that names the file."""
    make_run(tmp_path, optional=False)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        report(tmp_path)


def test_a_directory_without_runs_says_what_to_do(tmp_path):
    """The most common mistake, a wrong folder, gives a helpful error."""
    with pytest.raises(InputError, match="holds no runs.jsonl. Expected the directory of a run"):
        report(tmp_path)


def test_tables_without_their_columns_or_final_runs_are_refused(tmp_path):
    """write_report checks its input before it writes any file."""
    make_run(tmp_path / "run", optional=False)
    from compressed_lm.scaling import load_runs

    runs = load_runs(tmp_path / "run" / "runs.jsonl")
    given = {"ratios": pd.DataFrame(), "stages": [], "findings": check_theory(runs, pd.DataFrame()), "meta": {}}
    with pytest.raises(InputError, match=r"The table curves lacks the column\(s\) n_params"):
        write_report(tmp_path / "out", runs=runs, curves=pd.DataFrame({"codec": ["bytes"]}), **given)
    with pytest.raises(InputError, match="no final row"):
        write_report(tmp_path / "out", runs=runs.assign(final=False), curves=pd.DataFrame(), **given)
    assert not (tmp_path / "out").exists()


def test_figures_follow_the_theme_without_touching_global_settings():
    """Light and dark pictures differ, and matplotlib's settings are unchanged."""
    import matplotlib

    before = matplotlib.rcParams["text.color"]
    figure = Figure("x", lambda ax: ax.plot([1, 2]), "caption")
    assert figure.picture("svg", "#ffffff") != figure.picture("svg", "#000000")
    assert matplotlib.rcParams["text.color"] == before
