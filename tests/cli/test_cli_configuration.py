"""gin settings: plain strings work, and every misspelling is refused with what was probably meant."""

import pytest

from compressed_lm import configuration
from compressed_lm.errors import InputError


def test_scopes_and_plain_strings():
    """Unquoted strings bind, a scope overrides the general setting, and keyword overrides win."""
    configuration.load(
        [], ["train.steps=500", "train.optimizer=muon", "m1/train.steps=7", "model.size=nano", "m1/model.d_ff=96"]
    )
    assert (configuration.train().steps, configuration.train("m1").steps) == (500, 7)
    assert configuration.train("m1").optimizer == "muon"
    assert (configuration.model(264).d_ff, configuration.model(264, "m1").d_ff) == (256, 96)
    assert configuration.model(264, "m1", size="micro").d_model == 96


@pytest.mark.parametrize(
    "bindings, message",
    [
        (["trian.steps=5"], "Did you mean train"),
        (["train.step=5"], "train has no setting 'step'. Did you mean steps"),
        (["STEPZ=3", "STEPS=3", "train.steps=%STEPS"], "macro STEPZ is set and never used. Did you mean STEPS"),
        (["nonsense"], "where a setting such as train.steps=500 was expected"),
        (["train.steps=0"], "steps=0 was given; expected a positive integer"),
        (["train.steps=1", "train.optimizer=adam"], "adam"),
    ],
)
def test_mistakes_are_explained(bindings, message):
    """Unknown names, settings and values, and unused macros, raise one sentence with a suggestion."""
    with pytest.raises(InputError, match=message):
        configuration.load([], bindings)
        configuration.train()
        from compressed_lm.training.optimizers import optimizer

        optimizer(configuration.train())


def test_model_mistakes_are_explained():
    """An unknown size or field of a model is refused with those that exist."""
    configuration.load([], ["model.size=nano", "model.positon=rotary"])
    with pytest.raises(InputError, match="Did you mean position"):
        configuration.model(264)
    configuration.load([], ["model.size=nanno"])
    with pytest.raises(InputError, match="expected one of nano"):
        configuration.model(264)
    configuration.load([], [])
    with pytest.raises(InputError, match="model.size=nano"):
        configuration.model(264)


def test_every_gin_file_parses():
    """Each file under gin_configs/ loads, and an unknown one is refused with the list."""
    files = sorted(configuration.GIN_FILES.glob("**/*.gin"))
    assert files
    import compressed_lm.demo  # noqa: F401  registers the demo's settings

    for file in files:
        configuration.load([str(file)])
    with pytest.raises(InputError, match="runs/demo.gin"):
        configuration.load(["runs/dmo.gin"])
