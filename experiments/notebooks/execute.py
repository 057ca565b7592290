"""Executes notebooks in place: `python experiments/notebooks/execute.py [NAME ...]`, by default all of this folder.

Times and kernel versions are removed, so that files change only if results change. Figures are reduced to a palette. A
notebook that fails is not changed, and the exit status is 1.
"""

import base64
import io
import pathlib
import sys

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image
from traitlets.config import Config

FOLDER = pathlib.Path(__file__).parent


def execute(path: pathlib.Path) -> nbformat.NotebookNode:
    """Returns the notebook with the outputs of a new kernel, run in the folder of the notebook.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": path.parent}},
        config=Config(KernelManager={"transport_encryption": "auto"}),
    )
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _small(output.data["image/png"])
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _small(png: str) -> str:
    """Returns the image (base64) in 128 colours, with a third of the bytes."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    out = io.BytesIO()
    image.quantize(128, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def main(names: list[str]) -> int:
    """Executes notebooks by name (`codecs`, `scaling_laws`); returns the exit status."""
    known = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"There is no notebook {', '.join(unknown)}. Expected: {', '.join(known)}.", file=sys.stderr)
        return 2
    status = 0
    for name in names or known:
        try:
            nbformat.write(execute(known[name]), known[name])
        except CellExecutionError as error:
            print(f"{known[name].name}: {error.evalue}", file=sys.stderr)
            status = 1
        else:
            print(f"{known[name].name}: executed")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
