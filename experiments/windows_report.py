"""Tables and figure of `windows.py`, with the figures of Lester et al. 2024."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

Row = Mapping[str, object]

_WINDOWS = {  # b -> bytes per token for v = 256 and 65,536 (tables 2 and 12, appendix A.1)
    16: (2.66, 5.31),
    24: (3.15, 6.30),
    32: (3.49, 6.97),
    64: (4.16, 8.33),
    128: (4.61, 9.22),
}
_RESETS = {"2": (3.40, 6.80), "never": (5.33, 10.66)}  # b = 16 (table 9)
_DELAY = {16: (2.20, 4.40)}  # table 17
_STREAMS = {"ac": (5.49, 10.98), "static_ac": (1.73, 3.46), "gzip": (2.23, 4.46)}
_PAPER_VOCABULARIES = (256, 65536)
_VOCABULARIES = (256, 4096, 65536)
_SENTENCEPIECE = 4.28  # 32,000 pieces
_BLANK = " A blank share of windows: some windows decode to less text than was encoded, and it is unknown which."


def paper_bytes_per_token(family: str, options: Mapping[str, object]) -> float | None:
    """Returns the bytes per token that the paper reports for such a codec on C4, or None.

    The windows of the paper have the fill `paper`. Its figures are also given for our default fill `node`.
    """
    if family in ("bytes", "sentencepiece"):
        return {"bytes": 1.0, "sentencepiece": _SENTENCEPIECE}[family]
    if options["v"] not in _PAPER_VOCABULARIES or options.get("align") == "word":
        return None
    if family == "eiw":
        if options["m1_reset"] != "1":
            pair = _RESETS[options["m1_reset"]]
        else:
            tables = {"node": _WINDOWS, "paper": _WINDOWS, "delay": _DELAY}
            pair = tables.get(options["fill"], {}).get(options["b"])
    else:
        pair = _STREAMS[family]
    return pair and pair[_PAPER_VOCABULARIES.index(options["v"])]


@dataclasses.dataclass(frozen=True)
class About:
    """Setting of the measurement: command, M1 and texts (sizes in bytes, cost under M1 in bits per byte)."""

    command: str
    m1_hash: str
    m1_parameters: int
    m1_context: int
    m1_bits_per_byte: float
    corpus: str
    fit_corpus: str | None
    n_bytes: int
    n_texts: int


def markdown(rows: Sequence[Row], about: About) -> str:
    """Returns the page: the command and all tables."""
    find = _finder(rows)
    ac = find(family="ac", v=256)
    bits = 8 / ac["ratio"]
    parts = [
        "# Equal-Info Windows: bytes of text per token",
        f"    {about.command}",
        f"Text: `{about.corpus}`, {about.n_bytes:,} bytes in {about.n_texts:,} texts; corpus fingerprint "
        f"`{ac['corpus'][:12]}`. M1: {about.m1_parameters:,} parameters outside the embeddings, contexts of "
        f"{about.m1_context:,} bytes, hash `{about.m1_hash[:12]}`. The paper's M1 has 3 million parameters, contexts "
        'of 1,024 bytes and 1.457 bits per byte of C4; its figures are in the columns "paper". What compares across '
        "M1s is the share of arithmetic coding's ratio.",
        f"M1's tables assign the text {about.m1_bits_per_byte:.3f} bits per byte; `ac` spends {bits:.3f} "
        f"(8 / ratio), {bits - about.m1_bits_per_byte:+.3f}.",
        "## Window sizes",
        "Fill `node` (ours, lossless). The share is of `ac` (b = inf) at v = 256.",
        _ratios(find),
        "## Other codecs",
        _others(find, rows)
        + ("" if about.fit_corpus else "\n\n`static_ac` has the byte frequencies of the text itself."),
        "## How often M1 starts afresh (b = 16)",
        _resets(find),
        "## Fills",
        "A window is wrong if it decodes to another text than the encoder put in, a text if its windows together do. "
        "With the fill `paper`, the paper reports that 99.4% of its sequences decode right."
        + ("" if all(r["wrong_windows"] is not None for r in rows if r["m1_reset"] == "1") else _BLANK),
        _fills(find),
        "## Ours at b = 16: the likeliest strings, and windows that keep to words",
        _ours(find),
        "## Seconds",
        "Building (compiling, for dictionaries), encoding and decoding, on the machine that ran the command; the "
        "vocabularies of a window share them.",
        _seconds(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _finder(rows: Sequence[Row]) -> Callable[..., Row]:
    """Returns a function that finds the row with given values; the default options of windows are added."""

    def find(**wanted):
        if wanted.get("b"):
            wanted = {"family": "eiw", "fill": "node", "align": "none", "m1_reset": "1"} | wanted
        return next(r for r in rows if all(r[name] == value for name, value in wanted.items()))

    return find


def _table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    cells = [list(header), ["---", *["---:"] * (len(header) - 1)], *[list(map(str, line)) for line in lines]]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _value(row: Row) -> str:
    return f"{row['bytes_per_token']:.2f}"


def _paper(row: Row) -> str:
    return "" if row["paper"] is None else f"{row['paper']:.2f}"


def _ours_and_papers(find, **wanted) -> list[str]:
    """Returns cells with bytes per token: v = 256, paper, 4,096, 65,536, paper."""
    small, middle, large = (find(v=v, **wanted) for v in _VOCABULARIES)
    return [_value(small), _paper(small), _value(middle), _value(large), _paper(large)]


_COLUMNS = ("v=256", "paper", "v=4096", "v=65536", "paper")


def _shares(find, row: Row) -> list[str]:
    """Returns our bytes per token and the paper's, as shares of those of `ac`."""
    ac = find(family="ac", v=256)
    return [f"{row['bytes_per_token'] / ac['bytes_per_token']:.2f}", f"{row['paper'] / ac['paper']:.2f}"]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"


def _ratios(find) -> str:
    lines = []
    for wanted in ({"family": "ac"}, *({"b": b} for b in reversed(_WINDOWS))):
        row = find(v=256, **wanted)
        cells = [*_ours_and_papers(find, **wanted), *_shares(find, row), _percent(row["lossless"])]
        lines.insert(0, [wanted.get("b", "inf (`ac`)"), *cells])
    return _table(("b", *_COLUMNS, "share of ac", "paper", "texts restored"), lines)


def _others(find, rows: Sequence[Row]) -> str:
    lines = []
    for family in ("static_ac", "gzip"):
        restored = _percent(find(family=family, v=256)["lossless"])
        lines.append([f"`{family}`", *_ours_and_papers(find, family=family), restored])
    for row in rows:
        if row["family"] in ("bytes", "sentencepiece"):
            lines.append([f"`{row['spec']}`", _value(row), _paper(row), "", "", "", _percent(row["lossless"])])
    return _table(("codec", *_COLUMNS, "texts restored"), lines)


def _resets(find) -> str:
    lines = []
    for reset, name in (("1", "every window"), ("2", "every other window"), ("never", "never")):
        wanted = {"b": 16, "m1_reset": reset}
        row = find(v=256, **wanted)
        lines.append([name, *_ours_and_papers(find, **wanted), *_shares(find, row), _percent(row["lossless"])])
    return _table(("M1 starts afresh", *_COLUMNS, "share of ac", "paper", "texts restored"), lines)


def _fills(find) -> str:
    lines = []
    for b, fills in ((16, ("node", "best", "delay", "paper")), (32, ("node", "delay", "paper"))):
        for fill in fills:
            wanted = {"b": b, "fill": fill}
            lines.append([f"b={b} `{fill}`", *_ours_and_papers(find, **wanted), *_wrong(find(v=256, **wanted))])
    return _table(("fill", *_COLUMNS, "windows", "windows wrong", "texts wrong"), lines)


def _ours(find) -> str:
    lines = []
    for fill in ("node", "best"):
        for align in ("none", "word"):
            found = [find(b=16, fill=fill, align=align, v=v) for v in _VOCABULARIES]
            lines.append([f"`{found[-1]['spec']}`", *map(_value, found), *_wrong(found[0])])
    return _table(("codec", "v=256", "v=4096", "v=65536", "windows", "windows wrong", "texts wrong"), lines)


def _wrong(row: Row) -> list[str]:
    return [f"{row['n_windows']:,}", _percent(row["wrong_windows"]), _percent(1 - row["lossless"])]


def _seconds(rows: Sequence[Row]) -> str:
    shown = [row for row in rows if row["v"] == 65536]
    lines = [[f"`{r['spec']}`", *(f"{r['seconds'][k]:.1f}" for k in ("build", "encode", "decode"))] for r in shown]
    return _table(("codec", "build", "encode", "decode"), lines)


def figure(rows: Sequence[Row]) -> Figure:
    """Plots our and the paper's bytes per token against the window size, a color per vocabulary; b = inf is `ac`."""
    find = _finder(rows)
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    ax = figure.add_subplot()
    sizes = list(_WINDOWS)
    places = range(len(sizes))
    infinite = len(sizes)
    for v, color in ((65536, "#D55E00"), (256, "#0072B2")):
        of = [find(b=b, v=v) for b in sizes]
        ac = find(family="ac", v=v)
        for column, name, style, face in (
            ("bytes_per_token", "this M1, fill node", "-", color),
            ("paper", "Lester et al. 2024", "--", "none"),
        ):
            marks = dict(color=color, marker="D", markerfacecolor=face, markeredgewidth=1.6, linewidth=1.8)
            ax.plot(places, [r[column] for r in of], linestyle=style, label=f"v = {v:,}, {name}", **marks)
            # Plain arithmetic coding has no window size: it is drawn apart.
            ax.plot([places[-1], infinite], [of[-1][column], ac[column]], linestyle=":", **marks)
    ax.set_xticks([*places, infinite], [*map(str, sizes), "∞ (ac)"])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("bits per window b")
    ax.set_ylabel("bytes of text per token")
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small", borderaxespad=0)
    return figure
