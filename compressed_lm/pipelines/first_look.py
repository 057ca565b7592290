"""First results of the demo: the codecs that come with the package on the text at hand."""

from collections.abc import Sequence

from compressed_lm import codecs
from compressed_lm.formatting import byte_size
from compressed_lm.tracking.progress import progress


def first_look(documents: Sequence[bytes]) -> str:
    """Returns a table of bytes per token and round trips.

    Args:
        documents: the text; it is encoded and decoded.
    """
    names = ["bytes", "gzip(v=256)", *codecs.shipped()]
    total = sum(map(len, documents))
    lines = [f"{'codec':16} {'vocabulary':>10} {'bytes per token':>16}   round trip of {byte_size(total)}"]
    with progress("first look", len(names), unit="codecs") as bar:
        for name in names:
            codec = codecs.load(name) if name in codecs.shipped() else codecs.create(name)
            ids = codec.encode_batch(documents)
            exact = codec.decode_batch(ids) == list(documents)
            ratio = total / max(sum(map(len, ids)), 1)
            lines.append(
                f"{name:16} {codec.vocab_size:10,} {ratio:16.2f}   {'exact' if exact else 'NOT EXACT: please report'}"
            )
            bar.advance(1)
    return "\n".join(lines)
