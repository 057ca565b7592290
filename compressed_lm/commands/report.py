"""Command `report`: writes a page with the tables and figures of a run table."""

from compressed_lm.commands import paths
from compressed_lm.commands.command import Command


def add_arguments(parser):
    parser.add_path("folder", kind=paths.READ, help="folder with runs.jsonl, such as runs/demo")


def run(arguments):
    from compressed_lm.reports.run import report

    written = report(arguments.folder)
    print(f"{written.html} and {written.markdown} were written.")


COMMAND = Command(
    "report",
    "write report.html and report.md from a folder's run table",
    "compressed-lm report runs/demo",
    add_arguments,
    run,
)
