"""Configs: the keys that exist, their defaults, and the checks made before any device work.

A config file defines `get_config(arg="")` and starts from `defaults(task)`, so that a key exists in one place only. The
defaults are those of the official code (facts: `run_beit_pretraining.py`, `run_class_finetuning.py`) or, for the
tokenizer, of appendix A.2 of the DALL-E paper. A recipe (`recipe(...)`) is an ordered list of such configs.
"""

import ast
import importlib.util
import json
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from beit_jax.errors import UserError

TASKS = ("tokenizer", "pretrain", "classify", "probe")

# Keys that may differ between a run and its continuation, because they change no number of the run.
FREE_KEYS = ("log_every", "eval_every", "picture_every", "save_every", "keep", "mesh")


def defaults(task: str) -> ConfigDict:
    """All keys of a task's config with their default values, locked.

    Args:
      task: one of `TASKS`.

    Raises:
      UserError: an unknown task.
    """
    if task not in TASKS:
        raise UserError(f"task {task!r} is unknown; expected one of {', '.join(TASKS)}")
    config = _shared(task)
    config.model = _dvae(image_size=256) if task == "tokenizer" else _vit(task)
    dict(tokenizer=_add_tokenizer, pretrain=_add_pretrain, classify=_add_classify, probe=_add_probe)[task](config)
    return config.lock()


def _shared(task: str) -> ConfigDict:
    """The keys of every task."""
    return ConfigDict(
        dict(
            task=task,
            seed=0,
            batch_size=2048,  # over all devices
            epochs=0.0,  # length of the run: either epochs or steps
            steps=0,
            init_from="",  # run folder, checkpoint folder or stage:NAME whose parameters to start from
            init_fresh=(),  # regular expressions: parameters that the checkpoint may lack, or have in another shape
            init_drop=(),  # regular expressions: parameters of the checkpoint that are not wanted
            init_resize="official",  # how positions are fitted to another grid: official, timm, hf
            resume_from="",  # run folder whose whole state to continue in a new workdir
            log_every=50,  # steps
            eval_every=5000,  # steps; the last step is always evaluated; 0: only the last
            picture_every=0,  # steps between pictures; the last step always has them
            save_every=1000,  # steps; the last step is always saved
            keep=2,  # newest checkpoints kept
            data=dict(
                source="imagenet2012",  # a tfds name, folder:PATH, or digits
                data_dir="",  # where prepared tfds data sets lie; empty: the default of tfds
                split="train",
                eval_split="validation",
                ops="",
                eval_ops="",
                labels_per_class=0,  # examples of each class to train on; 0: label_fraction of them
                label_fraction=1.0,  # share of each class to train on
                subset_seed=0,  # which examples these are
                repeats=1,  # views of an image in a row (repeated augmentation); an epoch keeps its length
                shuffle_buffer=50_000,  # undecoded records
                max_bad_fraction=0.01,  # unreadable images: stop above this share
            ),
            mesh=dict(data=-1, fsdp=1, tensor=1),  # -1: the devices that are left
            optimizer=dict(
                lr=1.5e-3,
                min_lr=1e-5,
                warmup_epochs=0.0,
                warmup_steps=0,  # wins over warmup_epochs
                decay_steps=0,  # length of the cosine; 0: to the end of the run
                weight_decay=0.05,
                weight_decay_end=-1.0,  # cosine from weight_decay to this; negative: constant
                layer_decay=1.0,
                clip_norm=0.0,  # 0: no clipping
                b1=0.9,
                b2=0.999,
                eps=1e-8,
                accumulate=1,  # micro-batches per update
                ema=0.0,  # decay of the averaged parameters; 0: none
            ),
        )
    )


def _add_tokenizer(config: ConfigDict) -> None:
    config.elbo = dict(
        kl_weight=6.6,
        kl_steps=5_000,
        temperature_start=1.0,
        temperature_end=1 / 16,
        temperature_steps=150_000,
        straight_through=False,
    )


def _add_pretrain(config: ConfigDict) -> None:
    config.num_masked = 75  # masked positions that the head sees; at least as many as the masks hold
    config.tokenizer = _dvae(image_size=112)
    config.tokenizer.init_from = ""  # run of the tokenizer task; random: untrained tokens, to try the path
    config.knn = _knn()


def _add_classify(config: ConfigDict) -> None:
    config.model.num_classes = 0  # 0: taken from the data set
    config.model.pooling = "mean"
    config.model.init_scale = 0.001
    config.labels = ()  # names of the classes, where they are known
    config.label_smoothing = 0.1
    config.mixup = 0.0  # of Beta distributions of the share that an image keeps; 0: none
    config.cutmix = 0.0
    config.mix_probability = 1.0  # of a batch to be mixed
    config.mix_switch = 0.5  # of CutMix where both are on
    config.init_fresh = (r"^(fc_norm|head)/",)
    config.init_drop = (r"^lm_head/", r"^encoder/(mask_token|norm/.*)$")


def _add_probe(config: ConfigDict) -> None:
    config.model.num_classes = 0
    config.encoder = dict(init_from="")  # run whose encoder is probed; random: an untrained one, to compare with
    config.layers = ()  # counted from 1; empty: all
    config.features = "cls_mean"  # the class token beside the mean of the patches; or one of them: cls, mean
    config.cache_features = False  # compute them once; data.ops must not draw random numbers
    config.knn = _knn()


def _knn() -> ConfigDict:
    """k-nearest-neighbour classification at each evaluation; the images of data.split vote."""
    return ConfigDict(dict(k=0, temperature=0.07, ops=""))  # k=0: none; ops empty: data.eval_ops


def _dvae(image_size: int) -> ConfigDict:
    """The dVAE of the DALL-E paper, which the official code uses as its tokenizer."""
    return ConfigDict(
        dict(image_size=image_size, vocab=8192, hidden=256, groups=4, blocks_per_group=2, decoder_init=128)
    )


def _vit(task: str) -> ConfigDict:
    return ConfigDict(
        dict(
            variant="B/16",
            image_size=224,
            absolute_positions=False,
            relative_position="per_block" if task == "classify" else "shared",
            layer_scale=0.1,  # 0: none
            drop_path=0.1,
            norm_eps=1e-6,  # of the layer norms; converted transformers files bring 1e-12
            dtype="auto",  # bfloat16 on accelerators, float32 on CPU
            remat="none",
            unroll=1,
        )
    )


def recipe(**stages: ConfigDict) -> ConfigDict:
    """A config of several stages, run in the order given; each has its own folder under the workdir.

    A later stage names an earlier one by `init_from="stage:NAME"`. Stages called `NAME_seed0`, `NAME_seed1`, ... are
    shown as one group, with mean and deviation.

    Raises:
      UserError: there is no stage.
    """
    if not stages:
        raise UserError("found a recipe without stages, expected at least one; does it run over seeds=0?")
    return ConfigDict(dict(stages=tuple(stages), **stages)).lock()


def load(path: str) -> ConfigDict:
    """The config of `FILE[:args]`.

    Raises:
      UserError: the file is missing, defines no `get_config`, refuses its arguments, or fails.
    """
    file, _, arg = path.partition(":")
    get_config = config_module(file).get_config
    try:
        config = get_config(arg)
    except Exception as error:
        raise _error_in(file, error) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: get_config returned {type(config).__name__}; expected an ml_collections.ConfigDict")
    return config


def config_module(file: str) -> ModuleType:
    """The config file as a module, whether or not it lies in a package."""
    path = Path(file)
    if not path.is_file():
        raise UserError(f"config {file!r} does not exist; expected a file such as configs/quickstart.py")
    spec = importlib.util.spec_from_file_location(f"beit_jax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _error_in(file, error) from error
    if not hasattr(module, "get_config"):
        raise UserError(f'config {file!r} defines no get_config; expected `def get_config(arg="")`')
    return module


def _error_in(file: str, error: Exception) -> UserError:
    """An error that running a config file raised, in one line that says where."""
    if isinstance(error, UserError):
        return error
    here, frames = Path(file).absolute(), traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == here]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 0
    reason = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return UserError(f"config {file}:{line}: {type(error).__name__}: {reason}")


def parse_arg(arg: str, **known: Any) -> ConfigDict:
    """Reads `name=value,flag` into the types of the defaults given: `parse_arg(arg, variant="B/16", runlocal=False)`.

    Raises:
      UserError: an unknown name, or a value of another type.
    """
    values = dict(known)
    for item in filter(None, (arg or "").split(",")):
        name, given, text = item.partition("=")
        if name not in known:
            raise UserError(f"config argument {name!r} is unknown; expected one of {', '.join(known)}")
        values[name] = _convert(name, text, known[name]) if given else True
        if not given and not isinstance(known[name], bool):
            raise UserError(f"config argument {name!r} has no value; expected {name}={known[name]}")
    return ConfigDict(values)


def _convert(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
    except (ValueError, SyntaxError):
        value = None
    if type(value) is not type(default):
        raise UserError(f"config argument {name}={text!r} is no {type(default).__name__}; its default is {default!r}")
    return value


def to_json(config: ConfigDict) -> str:
    """Stable text of a config, for the run's folder and for comparison."""
    return json.dumps(config.to_dict(), indent=1, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`."""
    return ConfigDict(_tuples(json.loads(text))).lock()


def _tuples(value: Any) -> Any:
    """JSON knows lists only; configs hold tuples only, since ml_collections can override these."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """`{"optimizer.lr": 1e-3, ...}`."""
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {f"{prefix}{key}": value}
    return flat


def is_free(key: str, stages: Sequence[str]) -> bool:
    """Whether a flattened key, with or without the name of a stage before it, may differ in a continuation."""
    first, _, rest = key.partition(".")
    return (rest if first in stages else key).partition(".")[0] in FREE_KEYS


def split_of(source: str) -> str:
    """The usual name of the evaluation split of a data source."""
    return "test" if source in ("digits", "cifar10", "cifar100") else "validation"
