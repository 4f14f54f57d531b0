"""The keys of each task's config, with their defaults.

These are those of the official code (`run_beit_pretraining.py`, `run_class_finetuning.py`, `run_linear_eval.py`,
`upernet_beit.py`) or, for the tokenizer, of appendix A.2 of the DALL-E paper.
"""

from ml_collections import ConfigDict

from beit_jax.errors import UserError

TASKS = ("tokenizer", "pretrain", "classify", "probe", "segment")


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
    add = dict(
        tokenizer=_add_tokenizer,
        pretrain=_add_pretrain,
        classify=_add_classify,
        probe=_add_probe,
        segment=_add_segment,
    )
    add[task](config)
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
            keep_every=0,  # steps whose checkpoints are kept for good; 0: none
            max_bad_steps=0,  # in a row whose loss is not finite: skipped, and one more ends the run
            stall_factor=30.0,  # times the usual time without a step: the stacks of all threads are printed; 0: never
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
                shuffle_buffer=50_000,  # undecoded records, over all processes
                max_bad_fraction=0.01,  # unreadable images: stop above this share
            ),
            mesh=dict(
                data=-1,  # over all slices; -1 here or in one of the next two: the devices that are left
                fsdp=1,
                tensor=1,
                slices=1,  # with a slower network between them, which share data; -1: as the devices say
                max_replicated=0.1,  # share of bytes that may be whole on every device where fsdp or tensor splits them
            ),
            optimizer=dict(
                lr=1.5e-3,
                min_lr=1e-5,
                schedule="cosine",  # after the warm-up; or linear
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
    config.target = "tokens"  # what is predicted; or pixels, normalised as the network sees them, without a tokenizer
    config.loss_on = "masked"  # positions that the loss counts; all: hidden or not
    config.num_masked = 75  # positions that the head sees; at least as many as the masks hold, and all for loss_on=all
    config.tokenizer = _dvae(image_size=112)
    config.tokenizer.init_from = ""  # run of the tokenizer task; random: untrained tokens, to try the path
    config.tokenizer.dtype = "auto"  # bfloat16 on accelerators, float32 on CPU and next to the codes
    config.device_augment = dict(
        statistics="",  # of normalize, where the step does it on uint8 images: imagenet, inception; empty: data.ops do
        jitter=0.4,  # of colours, before that
    )
    config.tokens = ""  # folder of tokenize_dataset, with the tokens of this very run; empty: they are computed in it
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


def _add_segment(config: ConfigDict) -> None:
    config.model.update(dict(num_classes=0, image_size=512))  # 0: taken from the data set, where it tells
    config.model.head = "upernet"  # or setr_pup
    config.model.channels = 768  # of the head
    config.model.layers = (3, 5, 7, 11)  # counted from 0: under UPerNet's pyramid, or SETR-PUP's auxiliary heads
    config.model.auxiliary_channels = 256  # of UPerNet's auxiliary head
    config.model.dropout = 0.1  # before the classifiers
    config.labels = ()
    config.auxiliary_weight = 0.4
    config.loss_denominator = "all"  # pixels that the loss is divided by; valid: those with a label
    config.inference = dict(
        stride=0,  # from one window to the next; 0: two thirds of model.image_size
        ratios=(1.0,),  # scales at which images are seen
        flip=False,  # whether they are seen mirrored too
        clamp_to_crop=False,  # whether scales below the window are raised to it, as in the released code
        side=1024,  # of the canvas of images, as in data.eval_ops
        label_side=2048,  # of the canvas of label maps
    )
    config.init_fresh = (r"^(decode_head|auxiliary_head(_\d+)?|pyramid)/",)
    config.init_drop = (r"^(lm_head|head|fc_norm)/", r"^encoder/(mask_token|norm/.*)$")


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
            relative_position="per_block" if task in ("classify", "segment") else "shared",
            layer_scale=0.1,  # 0: none
            drop_path=0.1,
            norm_eps=1e-6,  # of the layer norms; converted transformers files bring 1e-12
            dtype="auto",  # bfloat16 on accelerators, float32 on CPU
            remat="auto",  # none on accelerators; on CPU, keep the products of layers and compute the rest again
            unroll=1,
        )
    )
