"""Benchmarks print their processor, since ratios of speeds differ between processors."""

import pathlib
import re
import runpy

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = [p for p in (ROOT / "benchmarks").glob("*.py") if re.search(r"^import time$|Console\(", p.read_text(), re.M)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_with_times_prints_the_processor(script):
    """Every benchmark that measures times prints the processor."""
    main = script.read_text().partition("\ndef main")[2]
    assert "print_cpu()" in main or not main


def test_the_processor_is_named_with_its_cores():
    """The line has a processor name and a number of cores."""
    assert re.fullmatch(r"\S.*, \d+ cores", runpy.run_path(str(ROOT / "benchmarks" / "machine.py"))["cpu"]())


def test_pages_give_processors_and_ranges():
    """The page of tables names both processors, and the README gives no speed without its processor."""
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "benchmarks/README.md"))
    assert not re.search(r"times as fast|MB/s", readme)
    assert "Sapphire Rapids" in page
    assert "All tables below are of 2 cores of an AMD EPYC" in page
