"""Five steps of training the tokenizer in patches.py on scanned digits, and five of pre-training on its tokens.

python -m beit_jax.train --config tests/outside/patches_config.py --workdir runs/patches
"""

from pathlib import Path

from beit_jax.config import defaults, python_file, recipe, shortened

python_file(Path(__file__).with_name("patches.py"))
VIEWS = "two_views_center(16, 16, 1.0)|normalize('inception')|blockwise_mask(6, 2, 4)"


def get_config(arg=""):
    tokenizer, pretrain = defaults("tokenizer", "patches"), defaults("pretrain", "patches")
    tokenizer.model.image_size = 16
    tokenizer.data.ops = "decode|resize(16)|keep('image')"
    pretrain.model.update(dict(variant="Micro/4", image_size=16))
    pretrain.tokenizer.init_from, pretrain.num_masked = "stage:tokenizer", 6
    pretrain.data.ops = f"decode|{VIEWS}|keep('image', 'tokenizer_image', 'mask')"
    for config in (tokenizer, pretrain):
        config.data.source, config.data.eval_split, config.batch_size = "digits", "test", 32
        config.data.eval_ops = config.data.ops
    return recipe(**shortened(dict(tokenizer=tokenizer, pretrain=pretrain), 5))
