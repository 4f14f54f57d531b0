"""RankMe: how many dimensions of the features are in use (arXiv 2210.02885, section 3.1). It needs no labels.

It is exp of the entropy of the singular values of the features, which have a row for each image: 1 where all images
have the same features up to a factor, the number of dimensions where these carry equally much. Nothing is centred.
"""

import numpy as np
from jax.sharding import Mesh

from beit_jax.evals.features import Features

MOST_IMAGES = 25_600  # as in the paper: more of them hardly change the number
EPSILON = 1e-7  # as in the paper
ROWS = 4096  # in float64 at a time

METRICS = {
    "rankme": "dimensions that the features of the last layer use (RankMe); falls towards 1 where they collapse",
}


class RankMe:
    """Of every layer; the number without a layer is that of the last one.

    Args:
      layers: numbers of the layers, counted from 1.
    """

    def __init__(self, layers: tuple[int, ...]):
        self._layers = layers

    def __call__(self, mesh: Mesh, train: Features, test: Features | None) -> dict[str, float]:
        """`rankme`, and `rankme_layerNN` of each layer, of evenly spread training images."""
        count = min(len(train.features), MOST_IMAGES)
        chosen = train.features[np.arange(count) * len(train.features) // count]
        ranks = [rankme(chosen[:, layer]) for layer in range(len(self._layers))]
        return {"rankme": ranks[-1]} | {
            f"rankme_layer{layer:02d}": rank for layer, rank in zip(self._layers, ranks, strict=True)
        }


def rankme(features: np.ndarray) -> float:
    """RankMe of features float32 `[n, f]`: between 1 and the smaller of both sizes; NaN if one is not finite."""
    gram = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(features), ROWS):
        rows = features[start : start + ROWS].astype(np.float64)
        if not np.isfinite(rows).all():
            return float("nan")
        gram += rows.T @ rows
    # The squares of the singular values. In float64 they are as exact as singular values of float32 features can be.
    squares = np.linalg.eigvalsh(gram)[-min(features.shape) :]
    values = np.sqrt(np.maximum(squares, 0))
    fractions = values / max(values.sum(), np.finfo(np.float64).tiny) + EPSILON
    return float(np.exp(-np.sum(fractions * np.log(fractions))))
