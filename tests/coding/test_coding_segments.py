"""Segmentation by bytes at words, capitals, digits and punctuation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import segments


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "In 1984, (don't!) USA, McKay",
            ["In", " 1", "9", "8", "4", ",", " (", "don", "'t", "!)", " USA", ",", " Mc", "Kay"],
        ),
        ("HTMLParser iPhone A USAs", ["HTML", "Parser", " i", "Phone", " A", " US", "As"]),
        ("a   b\n\n  c\t\td ", ["a", "  ", " b", "\n\n", " ", " c", "\t\t", "d", " "]),
        ("“Ça va”—日本語、です。", ["“", "Ça", " va", "”—", "日本語", "、", "です", "。"]),
        ("'S' 'quoted' ''", ["'S", "'", " 'quoted", "'", " ''"]),
    ],
)
def test_segments_end_where_words_do(text, expected):
    """Words, capitals inside words, digits, punctuation and white space are split as documented."""
    assert [s.decode() for s in segments.split(text.encode())] == expected


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="aAbB '1,.\n\x00é“日", max_size=150), st.binary(max_size=200))
def test_segments_cover_a_text_and_split_no_character(text, noise):
    """Segments have at most 64 bytes, concatenate to the text, and split no valid character."""
    for data in (text.encode(), noise, noise + text.encode()):
        found = segments.split(data)
        assert b"".join(found) == data and all(0 < len(s) <= segments.MAX_BYTES for s in found)
    for segment in segments.split(text.encode()):
        segment.decode()
