"""Five steps of the task in rotation.py on scanned digits.

python -m beit_jax.train --config tests/outside/rotation_config.py --workdir runs/rotation
python -m beit_jax.evaluate --checkpoint runs/rotation --plugin tests/outside/rotation.py
"""

from pathlib import Path

from beit_jax.config import defaults, python_file, shorten

python_file(Path(__file__).with_name("rotation.py"))


def get_config(arg=""):
    config = defaults("rotation")
    config.model.update(dict(variant="Micro/4", image_size=16))
    config.data.source, config.data.eval_split, config.batch_size = "digits", "test", 32
    config.data.ops = config.data.eval_ops = "decode|resize(16)|normalize('inception')|keep('image')"
    return shorten(config, 5)
