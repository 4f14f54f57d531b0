"""Which examples every training batch has: epoch after epoch, each in a new order."""

import tensorflow as tf

from beit_jax.data.batching import plain_graph
from beit_jax.data.sources.source import Shard, Source, count_streams

MAX_EPOCHS = 2**31


def raw_epochs(
    source: Source, repeats: int, seed: int, batch_size: int, process: Shard, start_step: int
) -> tf.data.Dataset:
    """The raw elements for the rows of one process in every batch from a step on, epoch after epoch."""
    num_streams = count_streams(batch_size, repeats, process.count)
    stream_rows = batch_size // num_streams  # neighbouring rows of each batch, which one stream fills
    first_stream, end_stream = (index * num_streams // process.count for index in (process.index, process.index + 1))
    steps_per_epoch = source.num_examples // batch_size
    first_epoch, first_step = divmod(start_step, steps_per_epoch)

    def stream(index: int, epoch: tf.Tensor, start: tf.Tensor) -> tf.data.Dataset:
        raw = source.raw(seed, epoch, start // repeats, Shard(index, num_streams))
        if repeats > 1:
            raw = raw.flat_map(plain_graph(lambda *element: _repeated(element, repeats)))
        return raw.skip(start % repeats).take(steps_per_epoch * stream_rows - start)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        start = tf.where(epoch == first_epoch, tf.constant(first_step * stream_rows, tf.int64), 0)
        streams = [stream(index, epoch, start) for index in range(first_stream, end_stream)]
        stream_of_row = tf.repeat(tf.range(len(streams), dtype=tf.int64), stream_rows)
        return tf.data.Dataset.choose_from_datasets(streams, tf.data.Dataset.from_tensor_slices(stream_of_row).repeat())

    return tf.data.Dataset.range(first_epoch, MAX_EPOCHS).flat_map(plain_graph(one_epoch))


def _repeated(element: tuple, times: int) -> tf.data.Dataset:
    """A raw element several times. Each copy has its own position in the epoch, and so its own random numbers."""
    return tf.data.Dataset.from_tensors(element if len(element) > 1 else element[0]).repeat(times)
