"""Keys of the task `classify` (official `run_class_finetuning.py`)."""

from ml_collections import ConfigDict

from beit_jax.config.encoder import encoder_keys, patch_grid
from beit_jax.config.keys import Key, Keys
from beit_jax.config.shared import init_optional
from beit_jax.errors import Mistakes

NUM_CLASSES = Key(0, "number of classes; 0: as many as the data set has", at_least=0)
LABELS = Key((), "names of the classes; empty: those of the data, where it has names")
OPTIONAL = (r"^(fc_norm|head)/",)
KEYS: Keys = dict(
    init_optional=init_optional(OPTIONAL),
    model=dict(
        **encoder_keys("per_block"),
        num_classes=NUM_CLASSES,
        pooling=Key("mean", "what the head sees: the mean of the patches or the class token", choices=("mean", "cls")),
        init_scale=Key(0.001, "factor of the head's initial parameters", at_least=0),
    ),
    labels=LABELS,
    label_smoothing=Key(0.1, "probability that the target gives to all classes alike", at_least=0, below=1),
    mixup=Key(0.0, "parameter of mixup's Beta distribution; 0: none", at_least=0),
    cutmix=Key(0.0, "parameter of CutMix's Beta distribution; 0: none", at_least=0),
    mix_group=Key(
        64,
        "most images that share a draw of mixup or CutMix: those of one GPU in the released code",
        at_least=2,
    ),
)


def check(config: ConfigDict) -> None:
    """
    Raises:
      UserError: the patch size does not divide the image, or mixing finds batches of an odd size.
    """
    mistakes = Mistakes()
    with mistakes.collected():
        patch_grid(config.model)
    micro_batch = config.batch_size // config.optimizer.accumulate
    if micro_batch % 2 and (config.mixup or config.cutmix):
        mistakes.add(
            f"batch_size={config.batch_size} with optimizer.accumulate={config.optimizer.accumulate} makes batches of "
            f"{micro_batch} images; mixup and cutmix mix pairs: expected an even number"
        )
    mistakes.raise_all()
