"""The smallest, largest and oddest values of the keys of a config, as text of the command line."""

from beit_jax.config.keys import Key

ENDS = ("nan", "inf", "-inf", "1e400", "-0.0", "0", "-1", "1", "2", "1e-50", "1e-39", "1e-7", "0.999", "0.99999999999")
ENDS += ("1e30", "1e38", "1e300", "2147483647", "2147483648", "4294967296", str(2**63), str(2**64), str(10**30))
# Of keys whose range does not say what is odd.
OF_KEY: dict[str, tuple[str, ...]] = {
    "model.variant": ("4x1x1/4", "4x2x4/4", "1x1x1/4", "8x1x8/8", "6x3x1/2", "8x4x2/1", "0x1x1/4", "8x1x1/0"),
    "model.image_size": ("1", "4", "8", "12", "16", "0", "7"),
    "model.layers": ("()", "(0,)", "(0,0,0,0)", "(1,)", "(nan,)", "(-1,)", "(True,)", "(1e400,)"),
    "model.num_classes": ("0", "1", "2", "3", "1000"),
    "model.dtype": ("float32", "bfloat16", "auto", "float16"),
    "model.remat": ("none", "full", "nothing_saveable"),
    "model.unroll": ("1", "2", "1000", "2147483647"),
    "model.vocab": ("1", "2", "3"),
    "model.hidden": ("1", "2", "3", "4"),
    "model.groups": ("1", "2", "3", "8"),
    "model.decoder_init": ("1", "2"),
    "tokenizer.vocab": ("1", "2"),
    "tokenizer.hidden": ("1", "3", "4"),
    "tokenizer.groups": ("1", "2"),
    "layers": ("()", "(1,)", "(2,)", "(1,1)", "(0,)", "(True,)"),
    "batch_size": ("1", "2", "3", "4", "1000"),
    "steps": ("0", "1", "2", "2147483647"),
    "epochs": ("0", "0.001", "0.3", "1", "1e-9", "1e9"),
    "num_masked": ("0", "1", "3", "4", "15", "16", "17"),
    "seed": ("0", "-1", "2147483647", "2147483648", str(2**32), str(2**63), str(2**64)),
    "optimizer.warmup": (
        "",
        "0 steps",
        "1 step",
        "2 steps",
        "3 steps",
        "0%",
        "50%",
        "100%",
        "1 epoch",
        "999999999999 epochs",
    ),
    "optimizer.schedule": (
        "cosine",
        "linear",
        "cosine_by_epoch",
        "cosine, 1 step",
        "linear, 1%",
        "cosine, 999999999999 epochs",
    ),
    "optimizer.betas": (
        "(0,0)",
        "(0.0,0.99999999999)",
        "(0.999999999,0.5)",
        "(nan,0.9)",
        "(-0.0,0.9)",
        "(1e-300,1e-300)",
    ),
    "optimizer.accumulate": ("1", "2", "4", "8"),
    "loss.kl_warmup": ("", "0 steps", "1 step", "100%"),
    "loss.annealing": ("", "0 steps", "1 step", "999999999999 steps"),
    "data.labels": ("all", "1 per class", "2 per class", "50%", "1%", "0 per class", "100%"),
    "data.split": ("train", "train[:1]", "train[:0]", "train[:2]", "validation"),
    "data.eval_split": ("train", "validation", "validation[:1]", "validation[:0]", "train[:1]"),
    "data.repeats": ("1", "2", "3", "1000", "2147483647"),
    "inference.ratios": ("(1.0,)", "()", "(1e-9,)", "(0.1,2.0)", "(nan,)", "(1e9,)"),
    "inference.stride": ("0", "1", "7", "8", "9"),
    "inference.short_side": ("0", "1", "8", "9"),
    "inference.long_side": ("0", "1", "8", "32"),
    "inference.label_side": ("1", "8", "20", "32", "2147483647"),
    "evals.kinds": ("()", "knn", "rankme", "probe", "knn,rankme,probe"),
    "evals.images": ("1", "2", "3", "1000", "2147483647"),
    "evals.k": ("0", "1", "3", "1000", "2147483647"),
    "cutmix": ("0", "1e-50", "1e-7", "0.3", "1", "1e30"),
    "mixup": ("0", "1e-50", "1e-7", "0.3", "1", "1e30"),
    "mix_group": ("2", "3", "4", "2147483647"),
    "mesh.data": ("-1", "0", "1", "2", "3"),
    "mesh.fsdp": ("-1", "1", "2", "3"),
    "mesh.tensor": ("-1", "1", "2", "1000"),
    "mesh.slices": ("-1", "1", "2", "3"),
    "log_every": ("1", "0", "3", "2147483647"),
    "save_every": ("1", "0", "2147483647"),
    "eval_every": ("1", "0", "2147483647"),
    "keep": ("1", "0", "2147483647"),
}
LEFT_ALONE = ("task", "labels", "init_from", "init_optional", "resume_from", "tokens", "evals.ops", "model.kind")
LEFT_ALONE += ("tokenizer.kind", "tokenizer.init_from", "encoder.init_from", "data.source", "data.data_dir", "data.ops")
LEFT_ALONE += ("data.eval_ops", "data.statistics", "device_augment")


def boundaries(name: str, key: Key) -> list[str]:
    """The values that are tried for a key."""
    if name in OF_KEY:
        numbers = ("nan", "inf", "1e400", str(10**30)) if isinstance(key.default, int | float) else ()
        return [*OF_KEY[name], *OF_KEY[name], *numbers]
    if key.choices:
        return [str(choice) for choice in key.choices]
    if isinstance(key.default, bool):
        return ["true", "false"]
    if not isinstance(key.default, int | float):
        return []
    limits = [str(limit) for limit in (key.at_least, key.above, key.at_most, key.below) if limit is not None]
    values = [*ENDS, *limits, *limits]
    return [value for value in values if value.lstrip("-").isdecimal()] * 2 if isinstance(key.default, int) else values
