"""Gradient rules compared in training, on real text."""

import dataclasses
import functools

import numpy as np
import pytest
from rich.console import Console

from compressed_lm import models, training
from compressed_lm.tracking import read_json_lines
from compressed_lm.tracking.progress import progress

CONFIG = training.TrainConfig(steps=120, batch_size=16, seq_len=64, learning_rate=5e-3, warmup_steps=20, log_every=1)


@pytest.fixture(scope="module")
def losses(real_store, tmp_path_factory):
    """Returns a function from the spelling of weights and activations to the losses of 120 steps, nats per byte."""
    folder = tmp_path_factory.mktemp("runs")

    @functools.cache
    def losses(spec, seed=0):
        shape = dict(position="rotary", activation="silu", d_model=32, d_ff=128)
        model = models.model_config("nano", 264, **shape, weights=spec, activations=spec)
        out = folder / f"{len(list(folder.iterdir()))}"
        quiet = functools.partial(progress, console=Console(quiet=True))
        config = dataclasses.replace(CONFIG, seed=seed)
        training.train(config, model, real_store, out=out, mesh_shape=(1, 1, 1), progress=quiet)
        records = read_json_lines(out / "metrics.jsonl")
        return np.array([r["loss_nats_per_token"] for r in records if "loss_nats_per_token" in r])

    return losses


@pytest.mark.slow("trains several runs")
def test_quest_trains_stably_and_beats_straight_through(losses):
    """With weights and activations of 2 bits, QuEST's loss falls smoothly.

    After the same number of steps it is below that of the plain straight-through gradient on the same grid.
    """
    quest, plain = losses("int(b=2,rule=quest)"), losses("int(b=2)")
    assert len(quest) == CONFIG.steps and quest[60:].max() < quest[:20].min()
    assert quest[-20:].mean() < plain[-20:].mean() - 0.03


@pytest.mark.slow("trains several runs")
def test_fewer_bits_cost_more(losses):
    """The loss after as many steps is ordered as the GMSE of the formats is: dense, 4 bits, 2 bits."""
    dense, four, two = (losses(spec)[-20:].mean() for spec in ("dense", "int(b=4,rule=quest)", "int(b=2,rule=quest)"))
    assert dense < four < two
