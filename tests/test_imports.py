"""Packages that must be imported without heavy libraries, each in a fresh interpreter."""

import resource
import subprocess
import sys
import time

import pytest
from patience import PATIENCE_S

BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}")
sys.meta_path.insert(0, Blocked())
"""
HEAVY = {"tensorflow", "tensorflow_datasets", "torch", "transformers", "matplotlib"}


def run(code, *arguments):
    return subprocess.run([sys.executable, *arguments, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)


def test_models_tasks_and_training_without_tensorflow():
    code = BLOCK.format(blocked=HEAVY) + (
        "import beit_jax, beit_jax.models, beit_jax.tasks, beit_jax.training, beit_jax.data\n"
        "from beit_jax.models import vit, heads, dvae\n"
        "from beit_jax.tasks import create_task\n"
        "from beit_jax.training import loop, checkpoint, evaluation, initialize\n"
        "from beit_jax import experiment, config\n"
        "from beit_jax import from_pretrained, save_pretrained, preprocess, features\n"
        "print('open')"
    )
    done = run(code)
    assert done.stdout.strip().endswith("open"), done.stderr


def test_nothing_of_a_bucket_is_imported_without_one(tmp_path):
    code = (
        "import sys\n"
        "from PIL import Image\n"
        "from beit_jax import cli, shard_dataset, tokenize_dataset, train\n"
        "from beit_jax.data import fingerprint, pipeline\n"
        "from beit_jax.data.records import shard_writer, stored_tokens\n"
        "from ml_collections import ConfigDict\n"
        f"root = {str(tmp_path)!r}\n"
        "for number in range(3): Image.new('RGB', (9, 9)).save(f'{root}/{number}.png')\n"
        "config = ConfigDict(dict(source=f'folder:{root}', data_dir='', split='train', eval_split='train',"
        " eval_ops='decode|resize(8)|normalize', shuffle_buffer=1, max_bad_fraction=0.0))\n"
        "assert len(list(pipeline.make_eval(config, batch_size=3))) == 1 and fingerprint.fingerprint(config)\n"
        "found = {'gcsfs', 'aiohttp', 'apache_beam', 'google.cloud.storage', 'beit_jax.runtime.bucket_path',"
        " 'beit_jax.runtime.bucket_listing', 'beit_jax.runtime.bucket_cache'} & sys.modules.keys()\n"
        "assert not found, found\n"
        "print('none')"
    )
    done = run(code)
    assert done.stdout.strip().endswith("none"), done.stderr


COMMANDS = ["train", "evaluate", "predict", "embed", "benchmark", "convert", "visualize", "shard_dataset", "push"]
COMMANDS += ["tokenize_dataset", "tiff_to_arrays"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick(command):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    program = [sys.executable, "-X", "importtime", "-m", f"beit_jax.{command}", "--help"]
    done = subprocess.run(program, capture_output=True, text=True)
    after, elapsed = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # of the processor: others use it too
    assert done.returncode == 0, done.stderr
    assert f"python -m beit_jax.{command}" in done.stdout
    assert seconds < 2 and elapsed < 3, f"{seconds:.1f} s of the processor, {elapsed:.1f} s in all"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "beit_jax.cli" in imported and not imported & (HEAVY | {"jax", "orbax"})
