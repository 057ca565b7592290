"""Program that renders one chat template: reads JSON from stdin, and writes JSON to stdout.

Templates come with models, from strangers. Jinja's sandbox keeps them from Python's internals, but not from endless
loops or huge strings, so `chat.render` runs this program as a process with limits on time and memory. It imports only
Jinja and the standard library. The environment is that of `transformers.utils.chat_template_utils` 5.24.
"""

import contextlib
import datetime
import json
import sys
from typing import Any, NoReturn

MEMORY_BYTES = 512 << 20
CPU_SECONDS = 10


def render(request: dict[str, Any]) -> str:
    """Returns the text of a template.

    Args:
        request: `template`, `variables` (by name) and `max_characters`.

    Raises:
        jinja2.TemplateError: the template is wrong, refuses the messages, or its text is too long.
    """
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """Tag around the assistant's text, which some templates have; its body is kept."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(x: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    parts, left = [], request["max_characters"]
    for part in environment.from_string(request["template"]).generate(**request["variables"]):
        left -= len(part)
        if left < 0:
            raise jinja2.TemplateError(f"its text has more than {request['max_characters']:,} characters")
        parts.append(part)
    return "".join(parts)


def main() -> None:
    """Renders the request on stdin within the limits."""
    with contextlib.suppress(ImportError, ValueError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    try:
        answer = {"text": render(json.load(sys.stdin))}
    except MemoryError:
        answer = {"error": f"it needs more than {MEMORY_BYTES >> 20} MiB of memory"}
    except Exception as error:  # a template may raise any error
        answer = {"error": f"{type(error).__name__}: {error}"[:500]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
