"""Layout of the package: direction of imports and size of modules."""

import ast
import pathlib
import statistics

import compressed_lm

ROOT = pathlib.Path(compressed_lm.__file__).parent
LAYERS = (
    *("errors", "formatting", "specs", "settings", "terminal", "caches", "io", "coding", "scaling", "tracking"),
    *("weights", "models", "exact", "codecs", "distributed", "data", "training", "configuration", "dry_run"),
    *("post_training", "evaluation", "token_analysis", "cramming", "reports", "pipelines", "integrations"),
    *("commands", "cli", "__main__"),
)
"""Top-level modules and subpackages: each imports only from itself and from earlier ones."""

MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imported(path):
    """Yields the modules of the package that a module imports, also inside functions, except for types only."""
    tree = ast.parse(path.read_text())
    types = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


IMPORTS = {name: set(imported(path)) - {name} for name, path in MODULES.items()}


def layer(module: str) -> int:
    return LAYERS.index(module.split(".")[1])


def test_imports_run_one_way():
    """A module imports only from its own subpackage and from earlier ones."""
    upward = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if "." in name and "." in other and layer(other) > layer(name)
    ]
    assert not upward


def test_no_module_imports_itself_by_way_of_others():
    """There is no import cycle, not even one inside functions."""
    left = dict(IMPORTS)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    cyclic = {name: sorted(others & left.keys()) for name, others in left.items()}
    assert not cyclic


def test_modules_are_small():
    """No module has more than 400 lines, and the median is at most 150."""
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert not {name: n for name, n in lines.items() if n > 400}
    assert statistics.median(lines.values()) <= 150


def test_every_subpackage_has_a_place():
    """Every subpackage has a place in the order of imports."""
    assert {name.split(".")[1] for name in MODULES if "." in name} <= set(LAYERS)
