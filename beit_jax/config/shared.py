"""The keys of every task.

Names and defaults follow the official code (`run_beit_pretraining.py`, `run_class_finetuning.py`).
"""

from beit_jax.config import statistics
from beit_jax.config.durations import check_duration, check_schedule
from beit_jax.config.keys import Key, Keys, check_regular_expressions
from beit_jax.config.loggers import logger_keys
from beit_jax.data.sources import data_sets
from beit_jax.data.sources.label_choice import parse_labels
from beit_jax.errors import UserError

MOST_CHANNELS = 1024

# Parameters without weight decay. The mask token and the tables of relative positions are decayed, as officially.
VECTORS = r"(bias|scale|gamma_1|gamma_2)$"
TOKENS = r"^(encoder|decoder)/(cls_token|pos_embed)$"


def shared_keys(task: str) -> Keys:
    """The keys that a config of any task holds."""
    return dict(
        task=Key(task, "what is learned"),
        seed=Key(
            0,
            "seed of initial parameters, order of examples and random draws",
            at_least=0,
            below=2**31,
        ),
        batch_size=Key(2048, "examples of a step, over all devices", at_least=1),
        epochs=Key(0.0, "length of the run in epochs; give either this or steps", at_least=0),
        steps=Key(0, "length of the run in steps", at_least=0),
        init_from=Key("", "run, checkpoint, hub id or stage:NAME whose parameters to start from", is_path=True),
        init_optional=init_optional(),
        init_new=Key(
            (),
            "regular expressions of parameters to initialize anew, whatever the checkpoint of init_from holds",
            check=check_regular_expressions,
        ),
        inflate=Key(
            "",
            "average: the projection of patches of a start or a probe gets data.channels channels by averaging its own",
            choices=("", "average"),
        ),
        resume_from=Key("", "run whose state to continue in a new workdir", is_path=True),
        log_every=Key(50, "steps between lines of the log", at_least=1, resumable=True),
        eval_every=Key(5000, "steps between evaluations; 0: only after the last step", at_least=0, resumable=True),
        save_every=Key(1000, "steps between checkpoints", at_least=1, resumable=True),
        keep=Key(2, "how many of the newest checkpoints to keep", at_least=1, resumable=True),
        max_bad_steps=Key(
            0, "steps in a row that may be skipped because their loss is not finite", at_least=0, resumable=True
        ),
        **logger_keys(),
        data=_data(),
        mesh=_mesh(),
        optimizer=_optimizer(),
    )


def init_optional(default: tuple[str, ...] = ()) -> Key:
    """The key that names the parameters in which the model and the checkpoint of `init_from` may differ."""
    return Key(
        default,
        "regular expressions of parameters that the checkpoint or the model may lack, or hold in another shape",
        check=check_regular_expressions,
    )


def _data() -> Keys:
    return dict(
        source=Key(
            "imagenet2012",
            f"digits, digit_scenes, folder:PATH, {data_sets.describe()} or the name of a prepared tfds data set",
        ),
        data_dir=Key("", "folder of prepared tfds data sets; empty: the default of tfds"),
        split=Key("train", "split to train on, such as train or train[:90%]"),
        eval_split=Key("validation", "split to evaluate on"),
        ops=Key("", "operations on training images, such as decode|resize(224)"),
        eval_ops=Key("", "operations on evaluation images"),
        channels=Key(3, "channels of the images", at_least=1, at_most=MOST_CHANNELS),
        max_value=Key(
            0.0, "number in the files that means 1, white; 0: 255, or the largest of an array's type", at_least=0
        ),
        bands=Key((), "channels that pictures show as red, green and blue, from 1; empty: the first", check=_bands),
        statistics=statistics.KEY,
        labels=Key("all", "labels to train on: all, 10% (of each class) or 5 per class", check=_labels),
        repeats=Key(1, "repeated augmentation: views of an image in a row, each with its own random draws", at_least=1),
        shuffle_buffer=Key(50_000, "undecoded records to draw the next one from, over all processes", at_least=1),
        max_bad_fraction=Key(
            0.01, "fraction of unreadable images above which the run ends", at_least=0, below=1, resumable=True
        ),
    )


def _bands(bands: tuple[int, ...]) -> str:
    right = len(bands) in (0, 1, 3) and all(type(band) is int and 1 <= band <= MOST_CHANNELS for band in bands)
    return "" if right else "one channel, or three such as (4, 3, 2), counted from 1"


def _labels(text: str) -> str:
    try:
        parse_labels(text)
    except UserError as error:
        return str(error).partition("expected ")[2]
    return ""


def _mesh() -> Keys:
    def axis(default: int, help: str) -> Key:
        return Key(default, help, check=_mesh_size, resumable=True)

    return dict(
        data=axis(-1, "devices that split the batch; -1 for one axis: all devices that are left"),
        fsdp=axis(1, "devices that split batch, parameters and optimizer"),
        tensor=axis(1, "devices that split heads and hidden units"),
        slices=axis(1, "groups of devices with a slower network between them; -1: as many as the devices say"),
    )


def _mesh_size(size: int) -> str:
    return "" if size == -1 or size >= 1 else "at least 1, or -1 for the devices that are left"


def _optimizer() -> Keys:
    return dict(
        lr=Key(1.5e-3, "peak learning rate", at_least=0),
        min_lr=Key(1e-5, "learning rate at the end", at_least=0),
        schedule=Key(
            "cosine",
            "cosine after the warm-up, or cosine_by_epoch (one rate an epoch); linear from step 0; 'cosine, 90 epochs'",
            check=check_schedule,
        ),
        warmup=Key(
            "",
            "length of the linear warm-up, such as '10 epochs', '200 steps' or '5%' of the run",
            check=check_duration,
        ),
        weight_decay=Key(
            0.05,
            "decay of weights and of a probe's biases; other biases, norms, LayerScale, class token, positions: none",
            at_least=0,
        ),
        layer_decay=Key(1.0, "factor of the learning rate from one block to the one below it", above=0, at_most=1),
        clip_norm=Key(0.0, "largest norm of the gradient; 0: no clipping", at_least=0),
        betas=Key((0.9, 0.999), "decay rates of AdamW's averages", check=_betas),
        accumulate=Key(1, "micro-batches of a step, and of the evaluation of a batch", at_least=1, resumable=True),
        ema=Key(0.0, "decay rate of the averaged parameters that are evaluated; 0: none", at_least=0, below=1),
    )


def _betas(betas: tuple[float, ...]) -> str:
    right = len(betas) == 2 and all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in betas)
    return "" if right else "two numbers, each at least 0 and below 1, such as (0.9, 0.999)"
