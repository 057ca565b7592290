"""Loss by position in the window, for small models and stores with known answers."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from compressed_lm import codecs
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.token_analysis import figures, positions


def array(*ids):
    return np.array(ids, np.int32)


def test_loss_by_position():
    """Loss, accuracy and the accuracy of the best constant are means over the tokens of each position."""
    targets, places = array(5, 7, 5, 8, 5, 7, 9, -1)[None], array(0, 1, 0, 1, 0, 1, -1, -1)[None]
    loss = math.log(2) * np.array([[1, 2, 1, 4, 4, 6, 50, 50.0]])
    best = array(5, 7, 5, 7, 6, 8, 9, 0)[None]
    table = positions.bits_by_token_position(lambda _: (loss, best), [(targets, places)] * 2, 2)
    assert table["n"].tolist() == [6, 6]
    assert table["bits"].tolist() == pytest.approx([2, 4])
    assert table["accuracy"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert table["trivial_accuracy"].tolist() == pytest.approx([1, 2 / 3])
    assert table["gain"].tolist() == pytest.approx([-1 / 3, -1 / 3])


def test_positions_are_counted_from_the_start_of_a_document(tmp_path):
    """Rows are those of the store; positions restart in each document; cut windows, ends and padding have none."""
    (tmp_path / "a.txt").write_bytes(b"abcde")
    (tmp_path / "b.txt").write_bytes(b"xyz")
    store = compress(open_corpus(f"text:{tmp_path}/*.txt"), "train", codecs.Bytes(), tmp_path / "store", n_shards=1)
    rows = list(positions.positioned_rows(store, 4, 2))
    wanted = store.rows(4, drop_remainder=False)
    assert [t.tolist() for t, _ in rows] == [wanted[i].tolist() for i in range(len(wanted))]
    assert [t.tolist() for t, _ in rows][0] == list(b"abcd")
    assert [p.tolist() for _, p in rows] == [[0, 1, 0, 1], [0, -1, 0, 1], [0, -1, -1, -1]]
    assert len(list(positions.positioned_rows(store, 4, 2, max_rows=1))) == 1
    # Rows of 3: the second token of a window that starts in the previous row is not counted.
    assert [p.tolist() for _, p in positions.positioned_rows(store, 3, 2)][:2] == [[0, 1, 0], [-1, 0, -1]]


def test_positions_are_drawn_for_each_codec():
    """The figure of positions has a panel for loss and one for accuracy, a line per codec in each."""
    rows = {"codec": ["eiw(b=16,v=256)"] * 2, "position": [0, 1], "bits": [5.0, 4], "gain": [-0.1, 0.2]}
    figure = figures.plot_token_positions(pd.DataFrame(rows))
    assert isinstance(figure, Figure)
    assert [list(ax.lines[0].get_ydata()) for ax in figure.axes] == [[5, 4], [-0.1, 0.2]]
