"""Engines: ways to encode the units of a compression job on one machine or many.

| module | engine |
|---|---|
| `local` | this process, or processes of this machine |
| `ray` | tasks of a Ray cluster |
| `beam` | an Apache Beam pipeline |

An engine takes a job and an iterator of tasks, from which it takes the next one when it has a place for it, and yields
reports of progress. Workers write blocks to the folder of the store and have no other output.
"""

from collections.abc import Generator, Iterator
from typing import Protocol

from compressed_lm.data.encoding import Job, Progress, Task


class Engine(Protocol):
    """A way to encode units of work."""

    def run(self, job: Job, tasks: Iterator[Task]) -> Generator[Progress, None, None]:
        """Encodes the units of all tasks.

        Raises:
            InputError: a document cannot be read or does not decode to itself, or workers failed repeatedly.
        """
        ...
