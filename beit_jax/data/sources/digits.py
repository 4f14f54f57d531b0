"""The data of the quick start: 1,797 scans of handwritten digits that are part of scikit-learn, without a download."""

import numpy as np
import tensorflow_datasets as tfds

TEST_FRACTION = 0.2


class Digits(tfds.core.GeneratorBasedBuilder):
    """8 x 8 grey scans of ten digits (UCI "Optical Recognition of Handwritten Digits", sklearn's load_digits)."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded, and tfds' search for checksums needs a package that it does not require

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(8, 8, 1), encoding_format="png")  # levels 0..16 scaled to 0..255
        label = tfds.features.ClassLabel(num_classes=10)
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, description=self.__doc__, features=features)

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits

        scans = load_digits()
        test = held_out(scans.target)
        return {
            "train": self._generate_examples(scans, np.flatnonzero(~test)),
            "test": self._generate_examples(scans, np.flatnonzero(test)),
        }

    def _generate_examples(self, scans, chosen):
        for index in chosen:
            levels = np.round(scans.images[index] * (255 / 16)).astype(np.uint8)
            yield int(index), {"image": levels[..., None], "label": int(scans.target[index])}


def held_out(labels: np.ndarray) -> np.ndarray:
    """bool `[n]`: the test split, a fifth of each class of `labels` `[n]`, always the same."""
    random = np.random.RandomState(0)  # NumPy never changes its numbers; those of default_rng may change
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        test[members[: round(TEST_FRACTION * len(members))]] = True
    return test
