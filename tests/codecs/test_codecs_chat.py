"""Chat templates are rendered as by transformers, and hostile ones end with an error."""

import time

import pytest

from compressed_lm.codecs import chat, chat_template
from compressed_lm.errors import InputError

pytest.importorskip("jinja2")

MESSAGES = [
    dict(role="system", content="  Be brief & <kind>. "),
    dict(role="user", content="Grüße\n"),
    dict(role="assistant", content="Hi", tool_calls=[dict(name="f", arguments=dict(x=1, y="é"))]),
    dict(role="user", content="Now?"),
]
TEMPLATES = {
    "loops": "{% for m in messages %}\n  {% if loop.first %}{{ bos_token }}{% endif %}\n{{ m.role }}: "
    "{{ m.content | trim }}\n{% endfor %}\n{% if add_generation_prompt %}assistant:{% endif %}",
    "break": "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% break %}{% endif %}{% endfor %}",
    "tojson": "{{ messages | tojson(indent=2) }}{% if tools is not none %}tools{% endif %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "namespace": "{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}{{ n.x }}",
    "macro": "{% macro f(m) %}[{{ m.role }}]{% endmacro %}{%- for m in messages -%}  {{ f(m) }}  {%- endfor %}",
    "date": "{{ strftime_now('%Y') }}{{ eos_token is defined }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_that_of_transformers(name):
    """The same template and messages give the same text."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    for more in (True, False):
        theirs, _ = utils.render_jinja_template(
            [MESSAGES], chat_template=TEMPLATES[name], add_generation_prompt=more, bos_token="<s>"
        )
        found = chat.render(TEMPLATES[name], MESSAGES, special_tokens=dict(bos_token="<s>"), add_generation_prompt=more)
        assert found == theirs[0]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('Only one system message.') }}", "TemplateError: Only one system message."),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ x.y }}", "UndefinedError"),
        ("{{ 'a' * 10 ** 9 }}", "more than 512 MiB"),
        ("{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}", "more than 4,194,304 characters"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
        ("a" * (1 << 20) + "b", "A chat template of 1,048,577 characters was given"),
    ],
)
def test_wrong_and_hostile_templates_are_errors(template, message):
    """The error names what was wrong; memory and length are limited, and Python's internals are out of reach."""
    with pytest.raises(InputError, match=message):
        chat.render(template, MESSAGES)


def test_endless_loops_end(monkeypatch):
    """A template that does not end is stopped."""
    monkeypatch.setattr(chat, "SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(InputError, match="took more than"):
        chat.render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", [])
    assert time.monotonic() - start < 20 and chat_template.CPU_SECONDS < 60


def test_a_template_without_system_messages_says_to_leave_them_out():
    """The error names the option, and the same prompt is rendered without it."""
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    with pytest.raises(InputError, match=r"System role not supported\). Leave out the system message \(--system\)"):
        chat.render(template, chat.messages_of("Hi", system="Be brief."))
    assert chat.render(template, chat.messages_of("Hi")) == "Hi"


def test_messages_of_a_prompt():
    """A prompt is a user message, after the system message if there is one."""
    assert chat.messages_of("a") == [dict(role="user", content="a")]
    assert chat.messages_of("a", system="") == [dict(role="system", content=""), dict(role="user", content="a")]
