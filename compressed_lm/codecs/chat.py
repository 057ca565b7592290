"""Chat templates: messages to the text that a model was trained on."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from compressed_lm.codecs import chat_template
from compressed_lm.errors import InputError

MAX_TEMPLATE = 1 << 20
MAX_CHARACTERS = 1 << 22
SECONDS = 60
"""Limit of the elapsed time of a template; its processor time has a lower one (`chat_template.CPU_SECONDS`)."""


def messages_of(prompt: str, *, system: str | None = None) -> list[dict[str, str]]:
    """Returns the messages of a chat: the user's prompt, after a system message if there is one."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": prompt}]


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    special_tokens: Mapping[str, str] | None = None,
    add_generation_prompt: bool = True,
) -> str:
    """Returns the text of a chat, as `apply_chat_template(..., tokenize=False)` of `transformers` does.

    A template is untrusted: it runs in Jinja's sandbox, in a process of its own, with limits on memory, time and the
    length of the text.

    Args:
        template: Jinja template, `SpecialTokens.template`.
        messages: each with `role` and `content`.
        special_tokens: text of special tokens by name, such as `bos_token`.
        add_generation_prompt: whether the text ends where the assistant's answer begins.

    Raises:
        InputError: the template is wrong, refuses the messages or exceeds a limit, or the package jinja2 is missing.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise InputError(
            "The package jinja2 is not installed, and chat templates need it. Install it: pip install "
            "'compressed_lm[hf]'."
        )
    if len(template) > MAX_TEMPLATE:
        raise InputError(
            f"A chat template of {len(template):,} characters was given; at most {MAX_TEMPLATE:,} were expected."
        )
    variables: dict[str, Any] = {"tools": None, "documents": None} | dict(special_tokens or {})
    variables |= {"messages": [dict(message) for message in messages], "add_generation_prompt": add_generation_prompt}
    request = {"template": template, "variables": variables, "max_characters": MAX_CHARACTERS}
    # -P: modules of this package's folder do not hide those of the standard library.
    command = [sys.executable, "-P", chat_template.__file__]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, encoding="utf-8", timeout=SECONDS
        )
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        answer = {"error": f"it took more than {chat_template.CPU_SECONDS} seconds, or too much memory"}
    if "error" in answer:
        system = any(message.get("role") == "system" for message in messages)
        hint = "Leave out the system message (--system), or give a plain prompt." if system else "Give a plain prompt."
        raise InputError(f"The chat template of the model could not be rendered ({answer['error']}). {hint}")
    return answer["text"]
