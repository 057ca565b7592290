"""Bits per byte on a validation store, the only loss that is comparable across codecs."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.models import Transformer, TransformerConfig
from compressed_lm.models.partitioning import BATCH
from compressed_lm.training.mesh import make_mesh
from compressed_lm.training.step import Params, eval_step

ROW_MULTIPLE = 64
MAX_ROWS = 32
BATCH_BYTES, BATCH_BYTES_CPU = 1 << 29, 1 << 26
"""Size of the largest array of an evaluation (bytes); about eight of that size exist at a time."""


@functools.lru_cache(maxsize=8)  # models of one shape share the compiled program
def predict_fn(model_config: TransformerConfig, eod_id: int) -> Callable:
    """Returns the compiled function (params, targets int32[B, L]) -> (total nats, number of targets) of a model."""
    return jax.jit(functools.partial(eval_step, model=Transformer(model_config), eod_id=eod_id))


def row_length(store: TokenStore, seq_len: int) -> int:
    """Returns the tokens per row: `seq_len`, or about as many as a store has that is shorter than one row."""
    n_tokens = store.n_tokens + store.n_documents
    # The multiple lets attention work in chunks.
    return min(seq_len, max(-(-n_tokens // ROW_MULTIPLE), 1) * ROW_MULTIPLE)


def batch_size_for(config: TransformerConfig, seq_len: int) -> int:
    """Returns the number of rows whose largest arrays take at most `BATCH_BYTES`, 1 to `MAX_ROWS`.

    These arrays are the scores of attention, computed for an eighth of the queries at a time, and the hidden layer of
    the MLP. Logits have a limit of their own (`training.step.map_logits`).

    Args:
        config: the model.
        seq_len: L, tokens per row.
    """
    row = 4 * seq_len * max(config.d_ff, config.n_heads * -(-seq_len // 8))
    most = BATCH_BYTES_CPU if jax.default_backend() == "cpu" else BATCH_BYTES
    return min(max(most // row, 1), MAX_ROWS)


class BitsPerByte:
    """Evaluator of bits per byte: total nats / (ln 2 x bytes) over a token store.

    All tokens count, including end-of-document tokens, and all bytes of the documents. Rows have the `seq_len` tokens
    of training, without overlap (Lester et al. 2024, section 3.8).

    Args:
        predict: from `predict_fn`.
        store: the validation documents under the model's codec.
        seq_len: L, tokens per row; a text that is shorter than one row gets a shorter row.
        batch_size: B, largest number of rows at a time.
        stride: evaluate every stride-th row only, for a quick estimate; the bytes are then estimated from the store's
            average bytes per token.
        mesh_shape: sizes of the mesh axes data, fsdp, tensor.

    Raises:
        InputError: `stride` is below 1.
    """

    def __init__(
        self,
        predict: Callable,
        *,
        store: TokenStore,
        seq_len: int,
        batch_size: int = 32,
        stride: int = 1,
        mesh_shape: Sequence[int] | None = None,
    ):
        if stride < 1:
            raise InputError(f"stride={stride} was given. Expected at least 1 (every row).")
        self._predict, self._store = predict, store
        self._sharding = NamedSharding(make_mesh(mesh_shape), PartitionSpec(BATCH))
        mesh = self._sharding.mesh
        length = row_length(store, seq_len)
        rows = store.rows(length, drop_remainder=False)
        chosen = [rows[i] for i in range(0, len(rows), stride)]
        parts = mesh.shape["data"] * mesh.shape["fsdp"]  # each gets as many rows
        batch_size = min(batch_size, -(-len(chosen) // parts) * parts)
        self.n_rows = len(chosen)
        chosen += [np.full(length, -1, np.int32)] * (-len(chosen) % batch_size)
        self._batches = np.stack(chosen).reshape(-1, batch_size, length)

    def run(self, params: Params, *, advance: Callable[[int], None] | None = None) -> Iterator[tuple[str, float]]:
        """Yields `loss_nats_per_token`, `bits_per_byte` and `n_tokens` (tokens evaluated) of a parameter tree.

        Args:
            params: the parameter tree.
            advance: called with the number of rows of each finished batch; batches then run one after the other.
        """
        sums = []
        for batch in self._batches:
            sums.append(self._sums(params, batch))
            if advance:
                jax.block_until_ready(sums[-1])
                advance(int((batch[:, 0] >= 0).sum()))
        nats, n_tokens = (math.fsum(float(s[i]) for s in sums) for i in (0, 1))
        tokens_per_byte = (self._store.n_tokens + self._store.n_documents) / max(self._store.n_bytes, 1)
        yield "loss_nats_per_token", nats / n_tokens
        yield "bits_per_byte", nats / n_tokens * tokens_per_byte / math.log(2)
        yield "n_tokens", int(n_tokens)

    def _sums(self, params: Params, batch: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Starts the program of a batch; returns its total nats and its number of targets."""
        sums = self._predict(params, jax.device_put(batch, self._sharding))
        devices = self._sharding.mesh.devices
        if devices.size > 1 and devices.flat[0].platform == "cpu":
            # Virtual devices share one pool of threads. Several programs that wait there for their other devices could
            # take all threads from those devices, and wait for ever.
            jax.block_until_ready(sums)
        return sums
