"""Configs of tasks small enough to run anywhere in a second."""

from ml_collections import ConfigDict

from beit_jax import config as configs

DVAE = dict(image_size=8, vocab=16, hidden=8, groups=2, blocks_per_group=1, decoder_init=8)


def config(task: str) -> ConfigDict:
    """A valid config of the task: 8 images a batch, 10 steps."""
    made = configs.defaults(task)
    made.batch_size, made.steps = 8, 10
    made.data.ops = made.data.eval_ops = "decode"
    made.optimizer.update(dict(lr=1e-2, min_lr=1e-3, warmup_steps=2, clip_norm=1.0))
    if task == "tokenizer":
        made.model.update(DVAE)
        return made
    made.model.update(dict(variant="Micro/4", image_size=16, drop_path=0.1))
    if task == "pretrain":
        made.tokenizer.update(DVAE | dict(init_from="random"))
        made.num_masked = 12
    elif task == "segment":
        made.model.update(dict(head="setr_pup", num_classes=4, channels=8, layers=(1,), dropout=0.0))
        made.inference.update(dict(side=24, label_side=24))
    elif task == "probe":
        made.model.num_classes, made.encoder.init_from = 10, "random"
    else:
        made.model.num_classes = 10
        made.optimizer.layer_decay = 0.7
    return made
