"""English text from Python source: docstrings, and long string literals that are documentation.

The source is parsed, not imported. As a program (`python -m compressed_lm.data.sources.docstrings`) it reads a JSON
list of files from its standard input and writes the JSON list of their texts. So several interpreters can share the
work without forking a process that runs JAX.
"""

import ast
import gc
import inspect
import json
import sys
import warnings
from collections.abc import Iterator

# Libraries also have documentation outside docstrings (`add_newdoc(name, "...")`, `_doc = "..."`); shorter literals are
# messages and names.
_MIN_LITERAL = 200


def texts(source: bytes) -> list[str]:
    """Returns the docstrings of a module, its classes and functions, and its long literals, in source order.

    The list is empty if the source has a syntax error.
    """
    if b'"""' not in source and b"'''" not in source:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in third-party code
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):
            return []
    return [inspect.cleandoc(text) for text in _of_body(tree.body)]


def _of_body(body: list[ast.stmt]) -> Iterator[str]:
    for position, node in enumerate(body):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                if position == 0 or len(text) >= _MIN_LITERAL:
                    yield text
            case ast.Expr(value=value) | ast.Assign(value=value) | ast.AnnAssign(value=value):
                yield from _literals(value)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                for decorator in node.decorator_list:
                    yield from _literals(decorator)
                yield from _of_body(node.body)
            case ast.If() | ast.Try() | ast.With():
                yield from _of_body(node.body)
                yield from _of_body(getattr(node, "orelse", []))


def _literals(node: ast.expr | None) -> Iterator[str]:
    """Long strings among a value's constants, call arguments and elements."""
    match node:
        case ast.Constant(value=str(text)) if len(text) >= _MIN_LITERAL:
            yield text
        case ast.Call():
            for value in [*node.args, *(keyword.value for keyword in node.keywords)]:
                yield from _literals(value)
        case ast.Tuple() | ast.List():
            for value in node.elts:
                yield from _literals(value)
        case ast.Dict():
            for value in node.values:
                yield from _literals(value)


def main() -> None:
    """Reads file names from the standard input, and writes their texts to the standard output."""
    gc.disable()  # syntax trees have no cycles; garbage collection would take a third of the time
    found = []
    for path in json.load(sys.stdin):
        with open(path, "rb") as file:
            found.append(texts(file.read()))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
