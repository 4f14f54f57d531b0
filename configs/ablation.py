"""The paper's ablations: pre-trainings that differ in one thing, each followed by the same fine-tuning.

  python -m beit_jax.train --config configs/ablation.py --workdir runs/ablation
  python -m beit_jax.visualize report runs/ablation --markdown docs/results.md
  python -m beit_jax.train --config configs/ablation.py:rows=beit+pixels+scratch,seeds=5 --workdir ...
  python -m beit_jax.train --config configs/ablation.py:data=imagenet2012,tokenizer=runs/tokenizer,seeds=1 --workdir ...

Rows, with the paper's top-1 on ImageNet: B/16, 300 epochs, one run each (tables 4 and 5 of arXiv 2106.08254v2). The
paper's table 4 has the plain ViT, for which there is `paper`; table 5 starts from it.
  beit                   82.86 plain; 83.22 with relative positions and LayerScale, as here
  random_masking         82.77 the masks hide single patches in place of blocks, and as many patches
  pixels                 81.04 the model predicts pixels in place of tokens (the task `pretrain_pixels`)
  pixels_random_masking  80.50 both
  all_tokens             82.59 the loss counts the tokens of all patches; the masks hide blocks as before
  no_masking             81.67 the loss counts the tokens of all patches, and nothing is masked
  half_length            -     half as many steps; the paper: 83.19 with 800 epochs, plain
  absolute_positions     83.00 a learned embedding of positions in place of the biases of attention
  no_layer_scale         -     without LayerScale
  plain_vit              82.86 absolute positions, and without LayerScale
  per_block_bias         -     a table of biases for each block in the pre-training too, where `beit` shares one table
  shared_bias            -     one shared table in the fine-tuning too, after the pre-training of `beit`
  scratch                -     fine-tuning without pre-training; the paper: DeiT-B 81.8 (table 1), a longer recipe
The paper states neither the loss nor the normalisation of its pixels: see beit_jax/tasks/pretrain_pixels.py. All rows
have the same learning rates. Those of the quick start, which are the default here, were chosen for `scratch`.

Arguments: rows (joined by +; empty: all), seeds, data (digits, or other data with the sizes of configs/pretrain.py and
configs/finetune.py). For digits: labels (per class), steps and finetune_steps, runlocal (a few steps of each stage).
For other data: tokenizer (a run; required), kind (of that tokenizer: dvae or vqkd), variant, epochs (of the
pre-training), paper (the plain ViT; leaves out the rows that change the architecture).

The default, on digits, has 500 steps of pre-training (a fifth of the quick start's) and 300 of fine-tuning. 13 rows of
3 seeds took 63 minutes on 2 cores that other jobs used too. Results: docs/results.md.

A seed is the seed of the pre-training, of the fine-tuning and, for digits, of the choice of labelled images. All seeds
share one tokenizer.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from beit_jax.config import load, parse_arg, python_file, recipe, shortened, with_task
from beit_jax.errors import UserError

HERE = Path(__file__).parent
quickstart = python_file(str(HERE / "quickstart.py"))
DIGITS = dict(labels=20, steps=500, finetune_steps=300, runlocal=False)
OTHERS = dict(tokenizer="", kind="dvae", variant="B/16", epochs=300.0, paper=False)

SHARED, PER_BLOCK = dict(relative_position="shared"), dict(relative_position="per_block")
ABSOLUTE, NO_SCALE = dict(absolute_positions=True, relative_position="none"), dict(layer_scale=0.0)


class Row(NamedTuple):
    """What differs from the row `beit`.

    Attributes:
      masks: blockwise, random or no.
      target: what is predicted, tokens or pixels.
      loss_on: the key of the config.
      length: factor of the steps of the pre-training.
      pretrain: changes of the model that is pre-trained.
      finetune: changes of the model that is fine-tuned.
      start: the row whose pre-training it starts from; None: its own; empty: no pre-training.
    """

    masks: str = "blockwise"
    target: str = "tokens"
    loss_on: str = "masked"
    length: float = 1.0
    pretrain: dict[str, Any] | None = None
    finetune: dict[str, Any] | None = None
    start: str | None = None


ROWS = {
    "beit": Row(),
    "random_masking": Row(masks="random"),
    "pixels": Row(target="pixels"),
    "pixels_random_masking": Row(target="pixels", masks="random"),
    "all_tokens": Row(loss_on="all"),
    "no_masking": Row(loss_on="all", masks="no"),
    "half_length": Row(length=0.5),
    "absolute_positions": Row(pretrain=ABSOLUTE, finetune=ABSOLUTE),
    "no_layer_scale": Row(pretrain=NO_SCALE, finetune=NO_SCALE),
    "plain_vit": Row(pretrain=ABSOLUTE | NO_SCALE, finetune=ABSOLUTE | NO_SCALE),
    "per_block_bias": Row(pretrain=PER_BLOCK),
    "shared_bias": Row(finetune=SHARED, start="beit"),
    "scratch": Row(start=""),
}


def get_config(arg: str = "") -> ConfigDict:
    """For each seed the pre-trainings, then the fine-tunings."""
    arg = parse_arg(arg, rows="", seeds=3, data="digits", **DIGITS, **OTHERS)
    rows = chosen(arg)
    stages = {"tokenizer": quickstart.tokenizer()} if arg.data == "digits" and arg.seeds else {}
    for seed in range(arg.seeds):
        for name, row in rows.items():
            start = name if row.start is None else row.start
            if start:
                stages[f"pretrain_{start}_seed{seed}"] = pretrain(arg, ROWS[start], seed)
        for name, row in rows.items():
            start = name if row.start is None else row.start
            stages[f"finetune_{name}_seed{seed}"] = finetune(
                arg, row, seed, f"stage:pretrain_{start}_seed{seed}" if start else ""
            )
    return recipe(**(shortened(stages, 4) if arg.runlocal else stages))


def chosen(arg: ConfigDict) -> dict[str, Row]:
    """The rows asked for.

    Raises:
      UserError: a row does not exist, or an argument belongs to other data.
    """
    foreign = OTHERS if arg.data == "digits" else DIGITS
    given = [name for name, default in foreign.items() if arg[name] != default]
    if given:
        raise UserError(f"config argument {given[0]!r} has no meaning with data={arg.data}; leave it out")
    if arg.data != "digits" and not arg.tokenizer:
        raise UserError(f"tokenizer is empty; give a run of configs/tokenizer.py, which makes the tokens of {arg.data}")
    known = {name: row for name, row in ROWS.items() if not (arg.paper and (row.pretrain or row.finetune))}
    names = arg.rows.split("+") if arg.rows else list(known)
    for name in names:
        if name not in known:
            raise UserError(f"config argument rows={arg.rows!r} has {name!r}; expected some of {'+'.join(known)}")
    return {name: known[name] for name in known if name in names}


def pretrain(arg: ConfigDict, row: Row, seed: int) -> ConfigDict:
    """The pre-training of a row."""
    if arg.data == "digits":
        config = quickstart.pretrain()
        config.steps, config.optimizer.warmup = round(arg.steps * row.length), f"{arg.steps // 10} steps"
        config.eval_every = config.log_every = max(arg.steps // 5, 1)
        config.save_every = arg.steps
    else:
        settings = f"kind={arg.kind},variant={arg.variant},data={arg.data},epochs={arg.epochs * row.length}"
        config = load(f"{HERE / 'pretrain.py'}:{settings}{',paper' if arg.paper else ''}")
        config.tokenizer.init_from = arg.tokenizer
    if row.target == "pixels":
        config = with_task(config, "pretrain_pixels")
    config.seed, config.loss_on = seed, row.loss_on
    config.model.update(row.pretrain or {})
    masks = {"blockwise": r"\g<0>", "random": r"random_mask(\1, \2)|", "no": r"no_mask(\2)|"}[row.masks]
    for key in ("ops", "eval_ops"):
        config.data[key] = re.sub(r"blockwise_mask\((\w+), \w+, (\w+)\)\|", masks, config.data[key])
        if row.target == "pixels":  # no tokenizer, so no view for one
            config.data[key] = config.data[key].replace("map_pixels('tokenizer_image')|", "")
            config.data[key] = config.data[key].replace("'tokenizer_image', ", "")
            config.data[key] = config.data[key].replace("tokenizer_size", "image_size")
    return config


def finetune(arg: ConfigDict, row: Row, seed: int, init_from: str) -> ConfigDict:
    """The fine-tuning of a row."""
    if arg.data == "digits":
        settings = dict(labels=arg.labels, lr=8e-3, layer_decay=0.65, steps=arg.finetune_steps)
        config = quickstart.classify(ConfigDict(settings), seed, init_from)
    else:
        settings = f"variant={arg.variant},data={arg.data}{',paper' if arg.paper else ''}"
        config = load(f"{HERE / 'finetune.py'}:{settings}")
        config.seed, config.init_from = seed, init_from
    config.model.update(row.finetune or {})
    return config
