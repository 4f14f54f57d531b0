"""A task of one's own: which way up an image is (arXiv 1803.07728). Nothing in the package knows of it."""

import dataclasses
import functools

import jax.numpy as jnp
import optax

from beit_jax.config import Key
from beit_jax.config.encoder import encoder_keys
from beit_jax.models import classifier, vit
from beit_jax.tasks import Curve, Headline, Report, Task, register_task
from beit_jax.tasks.encoder import encoder_fields
from beit_jax.tasks.task import spec

KEYS = dict(
    model=encoder_keys("shared"),
    turns=Key(4, "number of quarter-turn rotations to tell apart", at_least=2, at_most=4),
)


@register_task("rotation", keys=KEYS)
@dataclasses.dataclass(frozen=True, eq=False)
class Rotation(Task):
    """Batches hold `image` `[b, h, w, 3]` normalised; the image at index i is turned i times."""

    @functools.cached_property
    def model(self) -> classifier.ImageClassifier:
        encoder = vit.Encoder(**encoder_fields(self.config.model), final_norm=False)
        return classifier.ImageClassifier(encoder, num_classes=self.config.turns)

    def init(self, key):
        side = self.config.model.image_size
        return self.model.init(key, jnp.zeros((1, side, side, 3)))["params"]

    def train_spec(self, b):
        side = self.config.model.image_size
        return {"image": spec("float32", b, side, side, 3)}

    def loss(self, params, frozen, batch, key, step):
        images, turns = self.turned(batch["image"])
        logits = self.model.apply({"params": params}, images, train=True, rngs={"drop_path": key})
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, turns)
        return {"loss": (jnp.sum(losses), jnp.float32(losses.size))}, {}

    def measure(self, params, frozen, batch):
        images, turns = self.turned(batch["image"])
        right = jnp.argmax(self.model.apply({"params": params}, images), axis=-1) == turns
        valid = batch["valid"].astype(jnp.float32)
        return {"right": (jnp.sum(right * valid), jnp.sum(valid))}

    def turned(self, images):
        turns = jnp.arange(images.shape[0]) % self.config.turns
        every = jnp.stack([jnp.rot90(images, turn, axes=(1, 2)) for turn in range(self.config.turns)])
        return jnp.take_along_axis(every, turns[None, :, None, None, None], axis=0)[0], turns

    def pictures(self, params, frozen, batch):
        return {"turned": jnp.clip(self.turned(batch["image"])[0], 0.0, 1.0)}

    @property
    def report(self):
        return Report(
            "rotation",
            curves=(Curve("loss", "", "nats per image"), Curve("", "eval/right", "fraction of turns recognised")),
            headlines=(Headline("right", "turns recognised, %", 100),),
            metrics={"right": "fraction of evaluation images whose turn is recognised"},
            captions={"turned": "images, each turned as many times as its index says"},
        )
