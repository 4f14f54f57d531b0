"""Two labelled data sets, one after the other: intermediate fine-tuning of BEiT, or ViT's supervised transfer.

  python -m beit_jax.train --config configs/transfer.py:init=runs/pretrain --workdir runs/transfer
  python -m beit_jax.train --config configs/transfer.py:supervised --workdir runs/vit
  python -m beit_jax.train --config configs/transfer.py:runlocal --workdir runs/try       a minute on a laptop

The stage `intermediate` learns the labels of a large data set from a pre-trained encoder (with `supervised`: from
scratch, with DeiT's recipe). The stage `finetune` learns those of the data set of interest, at `image_size`. Their
settings are the recipes 22k (or deit) and 22k_to_1k of configs/finetune.py.

Arguments: init (a pre-training run or checkpoint), variant, v2 (the settings of BEiT v2), middle (the large data set:
folder:PATH, or records that shard_dataset wrote under the name imagenet21k), data, image_size (of the last stage),
supervised, runlocal.

Expected: B/16 85.2% at 224 and 86.8% at 384, L/16 87.4% and 88.4% (official README); v2 at 224,
B/16 86.5%, L/16 88.4% (official README of BEiT v2). Not measured here yet.
"""

from pathlib import Path

from ml_collections import ConfigDict

from beit_jax.config import load, parse_arg, recipe

FINETUNE = Path(__file__).with_name("finetune.py")


def get_config(arg: str = "") -> ConfigDict:
    """A recipe of two stages."""
    arg = parse_arg(
        arg,
        init="",
        variant="B/16",
        v2=False,
        middle="imagenet21k",
        data="imagenet2012",
        image_size=224,
        supervised=False,
        runlocal=False,
    )
    if arg.v2 and arg.supervised:
        raise ValueError("v2 and supervised together; supervised starts from scratch, v2 from BEiT v2")
    if not (arg.init or arg.supervised or arg.runlocal):
        raise ValueError("init is empty; give a pre-training run, or supervised to start from scratch")
    ending = f"variant={arg.variant}" + ",v2" * arg.v2 + ",runlocal" * arg.runlocal
    first = "deit" if arg.supervised else "22k"
    intermediate = load(f"{FINETUNE}:recipe={first},data={arg.middle},{ending}")
    finetune = load(f"{FINETUNE}:recipe=22k_to_1k,data={arg.data},image_size={arg.image_size},{ending}")
    intermediate.init_from = arg.init
    finetune.init_from = "stage:intermediate"
    return recipe(intermediate=intermediate, finetune=finetune)
