"""Progress of workers anywhere: the blocks that appear in the folder of the store."""

from collections.abc import Iterator

from compressed_lm import io
from compressed_lm.data import blocks
from compressed_lm.data.blocks import BlockName
from compressed_lm.data.encoding import Job, Progress


class Watcher:
    """Reports each block that workers write, once.

    The folder is the only thing that workers and the driver share: no message can be lost with a machine.

    Attributes:
        seconds: time between two looks at the folder; each is a request if it is in an object store.
    """

    def __init__(self, job: Job) -> None:
        """Starts to watch; blocks that are there already are not reported."""
        self._job = job
        self.seconds = 5.0 if io.is_remote(job.out) else 0.2
        self._seen: set[BlockName] = set(blocks.found(job.out))

    def new(self) -> Iterator[Progress]:
        """Yields the blocks that were written since the last call."""
        for name in blocks.found(self._job.out):
            if name not in self._seen:
                self._seen.add(name)
                yield Progress(name.n_bytes, name)
