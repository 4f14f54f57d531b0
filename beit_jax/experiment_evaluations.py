"""The evaluation of a run by the features of its encoder (the section `evals` of a config), and the images it needs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config.encoder import image_shape
from beit_jax.config.evals import WITHOUT_LABELS, kinds_with_labels
from beit_jax.errors import UserError
from beit_jax.evals.feature_evaluation import FeatureEvaluation, ImageSet
from beit_jax.evals.knn import Knn
from beit_jax.evals.probe import Probe
from beit_jax.evals.rankme import RankMe
from beit_jax.experiment_splits import check_disjoint
from beit_jax.tasks.compare_specs import compare_specs
from beit_jax.tasks.task import Task, spec


def open_evaluations(
    config: ConfigDict,
    task: Task,
    find_classes: Callable[[str, Sequence[str]], Any],
    process: Mapping[str, int],
) -> list[FeatureEvaluation]:
    """The evaluation that the config asks for; empty where it asks for none.

    Args:
      config: of the run, with numbers for the names in its ops.
      task: what is learned.
      find_classes: the numbers of the classes of a split (`pipeline.ModelClasses`), from known names of classes.
      process: `process_index` and `process_count`.

    Raises:
      UserError: there are no labels, splits have images in common, or the ops do not fit.
    """
    from beit_jax.data import pipeline

    if task.evals is None or not task.evals.kinds:
        return []
    section, scored = config.evals, kinds_with_labels(config)
    data = config.data.copy_and_resolve_references()
    data.eval_ops = section.ops or data.eval_ops
    _check(config, data, scored)
    once = dict(batch_size=config.batch_size, most=section.images) | process
    known = config.labels if "labels" in config else pipeline.classes(data, data.split).names
    train = pipeline.make_train_once(
        data, data.eval_ops, seed=config.seed, **once, classes=find_classes(data.split, known)
    )
    test = pipeline.make_eval(data, **once, classes=find_classes(data.eval_split, known)) if scored else None
    layers, number = task.embedded_layers, train.num_classes
    known_kinds = {
        "knn": lambda: Knn(layers, number, section.k),
        "rankme": lambda: RankMe(layers),
        "probe": lambda: Probe(layers, number),
    }
    sets = [ImageSet(images, images.num_examples) for images in (train, test) if images is not None]
    return [FeatureEvaluation(task, [known_kinds[kind]() for kind in section.kinds], *sets)]


def _check(config: ConfigDict, data: ConfigDict, scored: Sequence[str]) -> None:
    """Raises UserError unless the data serve these kinds, which compare classes, and the ops the encoder."""
    from beit_jax.data import pipeline

    wanted = {"image": spec("float32", 1, *image_shape(config))}
    if scored:
        if pipeline.info(data).num_classes < 2:
            raise UserError(
                f"evals.kinds={','.join(config.evals.kinds)}, but {data.source} has no labels, which "
                f"{' and '.join(scored)} compare; expected two classes or more, or evals.kinds={WITHOUT_LABELS}"
            )
        check_disjoint(data, f"which would be learned and scored by {' and '.join(scored)} of evals.kinds")
        wanted["label"] = spec("int32", 1)
    for split in (data.split, data.eval_split) if scored else (data.split,):
        compare_specs(pipeline.spec(data, split, data.eval_ops), wanted, "evals.ops", "evaluation of features")
