"""Scripts of experiments/ as modules."""

import functools
import importlib.util
import pathlib

import pytest

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


def load_script(folder, name):
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def load(request):
    """Returns a function that loads a script as a module, from the folder named by the test module."""
    return functools.partial(load_script, request.module.FOLDER)
