"""Notebooks run from top to bottom, and their committed outputs are reproducible and independent of the machine."""

import importlib.util
import pathlib
import re

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from compressed_lm import scaling
from compressed_lm.scaling import findings

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"
NOTEBOOKS = EXPERIMENTS / "notebooks"
FIGURES = {"capacity": 3, "codecs": 4, "scaling_laws": 9}  # at least
ABSOLUTE = re.compile(r"(?<![\w.<$}~-])/(?:[\w.+-]+/)+[\w.+-]*|\b[A-Za-z]:\\")

spec = importlib.util.spec_from_file_location("execute_notebooks", NOTEBOOKS / "execute.py")
execute_notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute_notebooks)


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def figures_in(notebook):
    return sum("image/png" in output.get("data", {}) for output in outputs_of(notebook))


def printed_by(notebook):
    return "".join(output.text for output in outputs_of(notebook) if output.get("name") == "stdout")


def write_notebook(path, *sources):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources]), path)


@pytest.mark.slow("executes a notebook")
def test_codecs_notebook_runs_and_prints_what_is_committed():
    """The codecs notebook runs from the recorded table alone, and prints its committed text."""
    notebook = execute_notebooks.execute(NOTEBOOKS / "codecs.ipynb")
    assert figures_in(notebook) >= FIGURES["codecs"]
    assert printed_by(notebook) == printed_by(nbformat.read(NOTEBOOKS / "codecs.ipynb", as_version=4))


@pytest.mark.slow("executes a notebook")
def test_capacity_notebook_runs_on_the_recorded_grid():
    """The capacity notebook runs from the recorded tables alone, with the committed orders and products."""
    notebook = execute_notebooks.execute(NOTEBOOKS / "capacity.ipynb")
    assert figures_in(notebook) >= FIGURES["capacity"]
    # Digits of a bootstrap depend on the linear algebra of a machine; the conclusions do not.
    said, committed = (
        re.findall(r"\d+ against it|Fewest bits [^,]*", printed_by(nb))
        for nb in (notebook, nbformat.read(NOTEBOOKS / "capacity.ipynb", as_version=4))
    )
    assert len(said) == 2 and said == committed


def test_recorded_grid_holds_what_its_notebook_reads():
    """The grid has every format in every size and length, text not proportional to size, and no path."""
    folder = EXPERIMENTS / "recorded" / "capacity"
    runs = scaling.load_runs(folder / "runs.jsonl")
    grid = runs[runs["activations"] == "dense"].groupby(["weights", "n_nonembed", "tokens"]).size()
    assert len(grid) == 10 * 4 * 3 and (grid == 1).all()
    assert runs.groupby("n_nonembed")["tokens"].nunique().min() == 3
    for path in folder.glob("*.jsonl"):
        assert not ABSOLUTE.findall(path.read_text(encoding="utf-8"))


@pytest.mark.slow("executes a notebook")
def test_scaling_laws_notebook_runs_on_the_public_tables(data_dir):
    """Every cell of the scaling laws notebook runs if the public tables are available."""
    notebook = execute_notebooks.execute(NOTEBOOKS / "scaling_laws.ipynb")
    assert figures_in(notebook) >= FIGURES["scaling_laws"]
    assert "cannot be distinguished from a larger alpha" in " ".join(printed_by(notebook).split())


def test_scaling_laws_notebook_stops_with_a_sentence_without_tables(monkeypatch):
    """Without COMPRESSED_LM_DATA the notebook stops with one sentence that names the variable, and no traceback."""
    monkeypatch.delenv("COMPRESSED_LM_DATA", raising=False)
    with pytest.raises(CellExecutionError) as stop:
        execute_notebooks.execute(NOTEBOOKS / "scaling_laws.ipynb")
    said = "Set COMPRESSED_LM_DATA to the folder that holds scaling_runs/ with the public tables, and run this again."
    assert stop.value.evalue == said
    assert stop.value.traceback.rsplit("----", 1)[1].strip() == said  # after the source of the cell


@pytest.mark.parametrize("name", FIGURES)
def test_committed_notebook_is_executed_small_and_names_no_machine(name):
    """Committed notebooks are executed from top to bottom, have figures and no path, and are below 600 kB."""
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for output in outputs_of(notebook)} <= {"display_data", "execute_result", "stream"}
    assert all(output.get("name") != "stderr" for output in outputs_of(notebook))
    assert figures_in(notebook) >= FIGURES[name]
    assert path.stat().st_size < 600_000
    for output in outputs_of(notebook):
        output.get("data", {}).pop("image/png", None)
    assert not ABSOLUTE.findall(nbformat.writes(notebook))


def test_every_notebook_is_tested():
    """Every notebook has a line in FIGURES and a test that runs it."""
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(FIGURES)


def test_paths_are_found_where_there_are_any():
    """The pattern for machine paths matches those in warnings and tracebacks, and no markup."""
    found = ["/tmp/ipykernel_7/1.py:3: Warning", "File /home/a/b.py", '"/root/x/y"', "C:\\\\Users"]
    assert all(ABSOLUTE.search(text) for text in found)
    clean = ["<td>1</td></tr>", "experiments/recorded/demo/README.md", "../recorded/demo", "D / N", "FLOPs/byte"]
    assert not any(ABSOLUTE.search(text) for text in clean)


def test_recorded_demo_is_a_run_table_without_paths():
    """The three recorded tables can be read, belong together, and contain no path."""
    demo = EXPERIMENTS / "recorded" / "demo"
    runs = scaling.load_runs(demo / "runs.jsonl")
    models = findings.model_runs(runs)
    assert (runs["group"] == "m1").sum() == 1 and len(models) == len(runs) - 1
    assert set(models["codec"]) == set(scaling.read_table(demo / "curves.jsonl")["codec"])
    assert set(models["codec"]) <= set(scaling.read_table(demo / "ratios.jsonl")["codec"])
    for path in demo.glob("*.jsonl"):
        assert not ABSOLUTE.findall(path.read_text(encoding="utf-8"))


def test_a_failing_notebook_stays_as_it_was(tmp_path, monkeypatch, capsys):
    """A failing notebook is not changed, later ones are still executed, and the exit status is 1."""
    write_notebook(tmp_path / "bad.ipynb", "raise ValueError('no table here')")
    write_notebook(tmp_path / "good.ipynb", "import pathlib\nprint(sorted(p.name for p in pathlib.Path().iterdir()))")
    before = (tmp_path / "bad.ipynb").read_bytes()
    monkeypatch.setattr(execute_notebooks, "FOLDER", tmp_path)
    assert execute_notebooks.main([]) == 1
    assert (tmp_path / "bad.ipynb").read_bytes() == before
    good = nbformat.read(tmp_path / "good.ipynb", as_version=4)
    assert printed_by(good) == "['bad.ipynb', 'good.ipynb']\n"
    assert good.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    said = capsys.readouterr()
    assert "bad.ipynb: no table here" in said.err and "good.ipynb: executed" in said.out


def test_unknown_notebook_is_named(capsys):
    """An unknown notebook name ends with the list of notebooks."""
    assert execute_notebooks.main(["codec"]) == 2
    assert "There is no notebook codec. Expected: " in capsys.readouterr().err
