"""The complete method on a laptop: tokenizer, pre-training, fine-tuning with few labels from BEiT and from scratch.

  python -m beit_jax.train --config configs/quickstart.py --workdir runs/quickstart

Data: the 1,797 scanned digits that come with scikit-learn (8x8 pixels, enlarged to 16x16); nothing is downloaded. The
tokenizer and the pre-training see the 1,438 training images without their labels. Fine-tuning then gets `labels` labels
per class, and so does the same network from scratch, with the same data, settings and number of steps. Only the initial
parameters differ. Each seed draws its own labelled images, the same for both arms. The learning rate and the layer
decay are those that suited training from scratch best, out of nine pairs tried on other seeds. Longer training makes
the difference smaller.

Arguments: labels (per class), seeds (of each arm), lr, layer_decay and steps (of both arms), runlocal (a few steps of
each stage).
"""

from ml_collections import ConfigDict

from beit_jax.config import defaults, parse_arg, recipe, shortened

SIZE, PATCH = 16, 4
ENDING = "|normalize('inception')|keep('image', 'label')"


def get_config(arg: str = "") -> ConfigDict:
    """Tokenizer, pre-training, then pairs of fine-tuning from BEiT and from scratch."""
    arg = parse_arg(arg, labels=5, seeds=3, lr=8e-3, layer_decay=0.65, steps=500, runlocal=False)
    stages = {"tokenizer": tokenizer(), "pretrain": pretrain()}
    for seed in range(arg.seeds):
        stages[f"from_beit_seed{seed}"] = classify(arg, seed, "stage:pretrain")
    for seed in range(arg.seeds):
        stages[f"from_scratch_seed{seed}"] = classify(arg, seed, "")
    return recipe(**(shortened(stages, 10) if arg.runlocal else stages))


def digits(config: ConfigDict) -> ConfigDict:
    """What all stages share."""
    config.data.source, config.data.eval_split = "digits", "test"
    config.data.shuffle_buffer = 2000
    config.log_every, config.save_every, config.eval_every = 100, 500, 500
    return config


def tokenizer() -> ConfigDict:
    """A small dVAE: 16 tokens an image, each for 2x2 pixels of the scan.

    The KL term has its full weight from the first step: without it, only a handful of tokens is used.
    """
    config = digits(defaults("tokenizer"))
    config.model.update(dict(image_size=SIZE, vocab=32, hidden=16, groups=3, blocks_per_group=1, decoder_init=32))
    config.batch_size, config.steps = 64, 2000
    config.loss.update(dict(kl_weight=3.0, kl_warmup="1 step", annealing="100%"))
    opt = config.optimizer
    opt.lr, opt.min_lr, opt.warmup, opt.weight_decay, opt.clip_norm = 1e-2, 1e-4, "50 steps", 1e-4, 1.0
    config.data.ops = "decode|random_resized_crop(image_size, 0.7, 1.0, (0.9, 1.1))|map_pixels('image')|keep('image')"
    config.data.eval_ops = "decode|resize(image_size)|map_pixels('image')|keep('image')"
    return config


def pretrain() -> ConfigDict:
    """Masks 6 of the 16 patches, the official fraction, in blocks of at least 2."""
    config = digits(defaults("pretrain"))
    config.model.update(dict(variant=f"Nano/{PATCH}", image_size=SIZE, drop_path=0.0))
    config.tokenizer.init_from = "stage:tokenizer"
    config.batch_size, config.steps = 64, 2500
    opt = config.optimizer
    opt.lr, opt.warmup, opt.clip_norm, opt.betas = 2e-3, "200 steps", 3.0, (0.9, 0.98)
    ending = (
        "|normalize('inception')|map_pixels('tokenizer_image')"
        "|blockwise_mask(num_masked, 2, grid)|keep('image', 'tokenizer_image', 'mask')"
    )
    config.data.ops = "decode|two_views(image_size, tokenizer_size, 0.7, 1.0)" + ending
    config.data.eval_ops = "decode|two_views_center(image_size, tokenizer_size, 1.0)" + ending
    config.evals.ops = "decode|resize(image_size)" + ENDING
    return config


def classify(arg: ConfigDict, seed: int, init_from: str) -> ConfigDict:
    """One run of either arm."""
    config = digits(defaults("classify"))
    config.model.update(dict(variant=f"Nano/{PATCH}", image_size=SIZE, drop_path=0.1))
    config.seed, config.data.labels = seed, f"{arg.labels} per class"
    config.init_from = init_from
    config.batch_size, config.steps, config.eval_every = 32, arg.steps, 100
    opt = config.optimizer
    opt.lr, opt.min_lr, opt.warmup, opt.layer_decay = arg.lr, 1e-5, "50 steps", arg.layer_decay
    config.data.ops = "decode|random_resized_crop(image_size, 0.7, 1.0, (0.9, 1.1))" + ENDING
    config.data.eval_ops = "decode|resize(image_size)" + ENDING
    return config
