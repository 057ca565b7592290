"""Imported Hugging Face models give the logits of `transformers`, and exported models are equal to the originals."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm.errors import InputError
from compressed_lm.models import Transformer, count_params, huggingface, init_cache
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.safetensors_files import Tensors, write_tensors
from tests.models.huggingface_cases import CASES, IDS, params_from, pretrained, tensors_of


def imported(folder, kind=None):
    """Returns (config, parameters) of a folder."""
    config, tensors = huggingface.config_from(json.loads((folder / "config.json").read_text())), Tensors(folder)
    return config, params_from(tensors.shapes, tensors.__getitem__, config, kind=kind)


@pytest.mark.thinned(4, "compiles a model for each setting")
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers_and_come_back(case, tmp_path):
    """Logits of a random model are those of `transformers`, to 5e-5 after import and to 5e-6 after export.

    The texts are longer than sliding windows. The export has several files, no missing tensor and no extra tensor.
    """
    theirs, expected = pretrained(case, tmp_path)
    config, params = imported(tmp_path)
    if "bfloat16" in case:  # kept as stored, except scales that need arithmetic
        kept = {name for name, leaf in by_name(params).items() if leaf.dtype == jnp.bfloat16}
        assert kept and all(name.endswith("/scale") for name in by_name(params).keys() - kept)
    found = jax.jit(Transformer(config).apply)({"params": params}, jnp.asarray(IDS))
    np.testing.assert_allclose(found, expected, atol=5e-5, rtol=0)
    assert np.abs(expected).max() > 1  # so that 5e-5 is a strict bound
    assert count_params(config).total == sum(p.numel() for p in theirs.parameters())

    import torch
    import transformers

    kind, out = CASES[case][0], tmp_path / "back"
    out.mkdir()
    values = huggingface.config_of(config, max_length=64, eod_id=2, kind=kind)
    (out / "config.json").write_text(json.dumps(values))
    tensors = {name: x.astype(np.float32) for name, x in tensors_of(by_name(params), config, kind=kind).items()}
    assert len(write_tensors(out, tensors, max_bytes=20_000)) > 3
    back, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert back.config.tie_word_embeddings == theirs.config.tie_word_embeddings
    assert type(back) is type(theirs)
    with torch.no_grad():
        np.testing.assert_allclose(back.eval()(torch.tensor(IDS)).logits.numpy(), expected, atol=5e-6, rtol=0)
    assert huggingface.config_from(values) == config


@pytest.mark.slow("compiles four programs for each setting")
@pytest.mark.parametrize("case", ["gemma3_text, in a loop", "gpt2", "olmo2", "phi3, window", "qwen3, windows"])
def test_imported_models_step_and_train(case, tmp_path):
    """Logits are the same with a cache, and with layers in a loop or unrolled; gradients are finite."""
    _, expected = pretrained(case, tmp_path)
    config, params = imported(tmp_path)
    for scan in (True, False):
        model = Transformer(dataclasses.replace(config, scan_layers=scan))
        loss = lambda params: jnp.mean(jnp.square(model.apply({"params": params}, jnp.asarray(IDS))))  # noqa: B023, E731
        found, gradient = jax.jit(jax.value_and_grad(loss))(params)
        np.testing.assert_allclose(found, np.mean(np.square(expected)), rtol=1e-5)
        assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradient))
    step = jax.jit(lambda params, *given: Transformer(config).apply({"params": params}, *given, method="step"))
    cache = init_cache(config, 2, 24)
    for i in range(24):
        logits, cache = step(params, jnp.asarray(IDS[:, i]), jnp.full(2, i), cache)
        np.testing.assert_allclose(logits, expected[:, i], atol=1e-4)


def test_checkpoints_for_images_are_refused_unless_they_have_only_text(tmp_path):
    """The nested text model of a gemma3 checkpoint is read under both names of its tensors; images are refused."""
    pretrained("gemma3_text, all local", tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    tensors = Tensors(tmp_path)
    config = huggingface.config_from({"model_type": "gemma3", "text_config": values, "vision_config": {}})
    assert config == huggingface.config_from(values)
    for start in ("language_model.model.", "model.language_model."):
        names = {name.replace("model.", start, 1): name for name in tensors.shapes}
        shapes = {theirs: tensors.shapes[name] for theirs, name in names.items()}
        read = lambda name: tensors[names[name]]  # noqa: B023, E731
        assert sum(leaf.size for _, leaf in huggingface.leaves_from(shapes, read, config)) == count_params(config).total
        with pytest.raises(InputError, match="has tensors for images, such as vision_tower.x.*the text model alone"):
            huggingface.leaves_from(shapes | {"vision_tower.x": (3,)}, read, config)
