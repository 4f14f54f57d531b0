"""Sources for segmentation: the records have a `label_map`, the bytes of a PNG file, instead of a label."""

import os
from typing import Any, NoReturn

import tensorflow as tf
import tensorflow_datasets as tfds

from beit_jax.data.features import LABEL_MAP, Features
from beit_jax.data.sources.fetched import FetchedSource
from beit_jax.data.sources.listed import ListedSource, read_file
from beit_jax.data.sources.sharded import ShardedSource
from beit_jax.errors import UserError
from beit_jax.models.label_maps import ADE20K_CLASSES

FEATURE = "annotation"  # the name that tfds' scene_parse150 gives to its label maps
NUM_CLASSES = {"scene_parse150": ADE20K_CLASSES, "digit_scenes": 11}  # of tfds data sets, whose features do not tell it
UNKNOWN = 0


def has_label_maps(builder: tfds.core.DatasetBuilder) -> bool:
    """Whether a tfds data set has label maps."""
    features = builder.info.features
    return FEATURE in features and isinstance(features[FEATURE], tfds.features.Image)


class _PairSource:
    """What both kinds of sources have in common."""

    def labels(self) -> NoReturn:
        """Raises UserError: the pixels of an image belong to many classes."""
        raise UserError(
            "found a choice of labels with label maps, where an image has many classes; expected data.labels='all': "
            "for fewer images, take a slice of the split, such as train[:10%]"
        )


class ListedPairSource(_PairSource, ListedSource):
    """Files of a folder (see `folder.list_pairs`). Their number of classes is not known: `UNKNOWN`."""

    def __init__(self, paths: list[tuple[str, str]]):
        images, label_maps = ([os.fsencode(path) for path in column] for column in zip(*paths, strict=True))
        super().__init__(images, [UNKNOWN] * len(images), images, UNKNOWN, in_files=True)
        self._label_maps = tf.constant(label_maps)

    def record(self, raw: tf.Tensor) -> Features:
        """See `Source`."""
        record = super().record(raw)
        del record["label"]
        return {**record, LABEL_MAP: read_file(self._label_maps[raw])}


class FetchedPairSource(_PairSource, FetchedSource):
    """As `ListedPairSource`, of objects in a bucket."""

    def __init__(self, paths: list[tuple[str, str]]):
        images, label_maps = ([os.fsencode(path) for path in column] for column in zip(*paths, strict=True))
        super().__init__(images, [UNKNOWN] * len(images), UNKNOWN, others=(label_maps,))

    def record(self, raw: tuple[tf.Tensor, ...]) -> Features:
        """See `Source`."""
        record = super().record(raw)
        del record["label"]
        return {**record, LABEL_MAP: raw[2]}


class ShardedPairSource(_PairSource, ShardedSource):
    """Records of a prepared tfds data set with label maps."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, shuffle_buffer: int):
        super().__init__(builder, split, shuffle_buffer)
        self.num_classes, self.class_names = NUM_CLASSES.get(builder.name, UNKNOWN), ()
        self._select_features("image", FEATURE)

    def record(self, raw: tuple[Any, ...]) -> Features:
        """See `Source`."""
        record = super().record(raw)
        features = self._features.deserialize_example(raw[2], decoders=self._decoders)
        del record["label"]
        return {**record, LABEL_MAP: features[FEATURE]}
