"""Keys of what is measured of the encoder's features at each evaluation, for the tasks with an encoder."""

from ml_collections import ConfigDict

from beit_jax.config.keys import Key, Keys

KINDS = ("knn", "rankme", "probe")
WITHOUT_LABELS = "rankme"  # the others compare classes


def evals_keys() -> Keys:
    """The section `evals`. The training images are those that vote, are ranked, and are learned by the probe."""
    return dict(
        kinds=Key(
            (),
            "what features are measured by: knn, probe, rankme (which needs no labels)",
            check=_check_kinds,
            resumable=True,
        ),
        k=Key(20, "neighbours that vote in knn", at_least=1, resumable=True),
        images=Key(25_600, "of each split, the most images; their features stay in memory", at_least=1, resumable=True),
        ops=Key("", "operations that make image and label of both splits; empty: data.eval_ops", resumable=True),
    )


def _check_kinds(kinds: tuple[str, ...]) -> str:
    right = set(kinds) <= set(KINDS) and len(set(kinds)) == len(kinds)
    return "" if right else f"names of {', '.join(KINDS)}, each once"


def kinds_with_labels(config: ConfigDict) -> tuple[str, ...]:
    """The kinds of a config that need the class of each image."""
    return tuple(kind for kind in config.get("evals", {}).get("kinds", ()) if kind != WITHOUT_LABELS)
