"""Options in the specs of corpora."""

import hypothesis
import pytest
from hypothesis import strategies as st

from compressed_lm.data.sources import open_corpus, source_spec
from compressed_lm.errors import InputError

NAMES = ("field", "template", "id")


@hypothesis.given(
    options=st.dictionaries(st.sampled_from(NAMES), st.text(min_size=1)), rest=st.text(min_size=1, max_size=20)
)
def test_written_specs_are_read_again(options, rest):
    """Any values and any path survive writing and parsing."""
    parts = source_spec.split(source_spec.write("json", options, rest))
    assert (parts.scheme, parts.rest) == ("json", rest)
    assert source_spec.parse_options(parts, NAMES) == options


@hypothesis.given(st.text(alphabet="json():,='\"\\ x{}.*", max_size=30))
def test_no_text_breaks_the_parser(text):
    """Any text either is parsed or raises InputError."""
    try:
        parts = source_spec.split(text)
        source_spec.parse_options(parts, NAMES)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "options, expected",
    [
        ("", {}),
        ("field=a.b", {"field": "a.b"}),
        (" field = a b , id=c ", {"field": "a b", "id": "c"}),
        (r'template="{a}, \"{b}\" (c)\n"', {"template": '{a}, "{b}" (c)\n'}),
        ("template='{a}, {b}',id=x", {"template": "{a}, {b}", "id": "x"}),
        (r"template={a}\, {b}\)\n\\n", {"template": "{a}, {b})\n\\n"}),
        ("template={it's}", {"template": "{it's}"}),
    ],
)
def test_values_may_be_quoted_or_escaped(options, expected):
    """Quotes and backslashes take commas, parentheses and quotes as part of a value."""
    parts = source_spec.split(f"json({options}):a:b(1),c")
    assert parts.rest == "a:b(1),c"
    assert source_spec.parse_options(parts, NAMES) == expected


@pytest.mark.parametrize(
    "spec, message",
    [
        ("json(feild=a):x", r"the unknown option 'feild'. Did you mean field\? Its options: field=..., template="),
        ("json(a):x", "the unknown option 'a'"),
        ("json(field=):x", "the option field without a value"),
        ("json(id=a,id=b):x", "the option id more than once"),
        ("json(field=a:x", "no closing parenthesis before the colon"),
        ("json(field='a):x", "or a quote is not closed"),
        ("json(field='a'b):x", r"after the value of field; a comma was expected before 'b'. Put quotes"),
        ("json(field=a,template={b}):x", "give one of them"),
        ("json(template=title):x", r"at least one field in braces was expected, such as {title}\\n\\n{text}"),
        ("json(template={title):x", "expected '}' before end of string"),
        ("json(template={}):x", "no plain name of a field"),
        ("json(template={a!r}):x", "no plain name of a field"),
        ("store(field=a):x", r"store has no options. Write store:"),
        ("installed_docs(a=b)", "installed_docs has no options"),
        ("jsn(field=a):x", r"Did you mean json\?"),
        ("json(field=a)", r"Write json:PATH"),
        ("data(1)/a.json", r"For files write json:data\(1\)/a.json"),
    ],
)
def test_bad_options_say_what_to_do(spec, message):
    """An error of an option is short, and names what was given and what exists."""
    with pytest.raises(InputError, match=message) as error:
        open_corpus(spec)
    assert "\n" not in str(error.value)
