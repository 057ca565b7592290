"""Engine of Apache Beam: units of work are the elements of a pipeline, on any of Beam's runners.

Workers need this package, the files of the corpus, and the folder of the store, all under the same paths or URLs.
"""

import re
import threading
from collections.abc import Generator, Iterator, Sequence

from compressed_lm.data import encoding
from compressed_lm.data.blocks import Place
from compressed_lm.data.encoding import Job, Progress, Task
from compressed_lm.data.engines.watch import Watcher
from compressed_lm.errors import InputError

_USER_ERROR = re.compile(r"(?:^|\bcompressed_lm\.errors\.\w+: )([^\n]+?) \[while running 'encode units")
"""Message of an error of this package; Beam returns those of other processes as text."""


class Beam:
    """Engine of Apache Beam.

    Attributes:
        options: options of the pipeline, such as `("--runner=FlinkRunner", "--parallelism=64")`.
    """

    def __init__(self, options: Sequence[str] = (), *, workers: int = 1) -> None:
        """Checks that Beam is installed.

        Args:
            options: options of the pipeline; without them it runs on this machine.
            workers: number of processes on this machine, if there are no options.

        Raises:
            InputError: Apache Beam is not installed.
        """
        try:
            import apache_beam  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"The engine beam needs Apache Beam, which could not be imported ({error}). Install it in an "
                "environment of its own, since it needs older packages: pip install -c constraints/beam.txt "
                "'compressed_lm[corpora,beam]'; or choose another --engine."
            ) from error
        quiet = ("--runner=DirectRunner", "--default_sdk_harness_log_level=ERROR")
        processes = (f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing")
        self.options = tuple(options) or (*quiet, *(processes if workers > 1 else ()))

    def run(self, job: Job, tasks: Iterator[Task]) -> Generator[Progress, None, None]:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        watcher = Watcher(job)
        elements = [(task.place.unit, task.place.document, task.max_bytes) for task in tasks]
        results: list = []
        failures: list[Exception] = []

        def work() -> None:
            try:
                pipeline = beam.Pipeline(options=PipelineOptions(list(self.options)))
                _ = pipeline | beam.Create(elements) | beam.Reshuffle() | "encode units" >> beam.Map(_encode, job)
                results.append(pipeline.run())
                results[0].wait_until_finish()
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=work, daemon=True)  # on this machine `run` returns when all is done
        thread.start()
        running = True
        try:
            while running:
                thread.join(watcher.seconds)
                running = thread.is_alive()
                yield from watcher.new()
        finally:
            if thread.is_alive() and results:
                results[0].cancel()
        if failures:
            raise _failure(failures[0]) from failures[0]


def _encode(element: tuple[int, int, int | None], job: Job) -> None:
    """Encodes the documents of a unit that no earlier attempt wrote, on a worker."""
    unit, document, max_bytes = element
    encoding.encode_rest(job, Task(Place(unit, document), max_bytes))


def _failure(error: Exception) -> InputError:
    """Returns the error of a pipeline that failed."""
    text = str(error).strip()
    if messages := _USER_ERROR.findall(text):
        return InputError(messages[-1])
    reason = f"{type(error).__name__}: {text.splitlines()[-1] if text else 'no message'}"
    return InputError(
        f"The pipeline of Apache Beam failed ({reason}); the log of its runner has the details. What was written is "
        "kept: run the same command again, and only the missing documents are encoded."
    )
