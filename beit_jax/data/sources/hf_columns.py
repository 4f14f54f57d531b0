"""Columns of Arrow and Parquet files: which holds the images, which the labels, and where the bytes of images are."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from beit_jax.data.sources.examples import listed
from beit_jax.data.sources.names import class_name
from beit_jax.errors import UserError
from beit_jax.runtime.atomic_write import atomic_write
from beit_jax.runtime.cache_folder import VARIABLE, cache_folder

if TYPE_CHECKING:
    import pyarrow

PARQUET, ARROW = ".parquet", ".arrow"
IMAGE, LABEL, BYTES = "image", "label", "bytes"
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
FILE_START = b"ARROW1"
ROWS = 64  # that are unpacked at once
SHOW_AFTER_S = 3.0
FORMAT = 1  # of what is unpacked


class Columns(NamedTuple):
    """Names of the columns of images and of labels (empty: none), and those of the classes, where they are stored."""

    image: str
    label: str
    class_names: tuple[str, ...]


class Table(NamedTuple):
    """An open file: its schema, number of rows, and a function that reads a column."""

    schema: "pyarrow.Schema"
    num_rows: int
    read: Any


@contextlib.contextmanager
def open_table(path: str) -> Iterator[Table]:
    """
    Raises:
      UserError: the file is damaged, or no table.
    """
    import pyarrow as pa

    try:
        if path.endswith(PARQUET):
            import pyarrow.parquet as pq

            with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:

                def read(name: str) -> "pyarrow.ChunkedArray":
                    return file.read(columns=[name], use_threads=False).column(name)

                yield Table(file.schema_arrow, file.metadata.num_rows, read)
        else:
            table, _ = _read_arrow(path)
            yield Table(table.schema, table.num_rows, table.column)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or cut short, or no table ({reason}); restore it") from error


def _read_arrow(path: str) -> tuple["pyarrow.Table", "pyarrow.Buffer"]:
    """The table of a file, which is mapped into memory, and the map."""
    import pyarrow as pa

    with pa.memory_map(path) as source:
        whole = source.read_buffer()
    if whole[: len(FILE_START)].to_pybytes() == FILE_START:
        return pa.ipc.open_file(pa.BufferReader(whole)).read_all(), whole
    table = pa.ipc.open_stream(pa.BufferReader(whole)).read_all()
    if whole[-len(STREAM_END) :].to_pybytes() != STREAM_END:
        raise ValueError("it has no end mark")
    return table, whole


def choose_columns(path: str) -> Columns:
    """
    Raises:
      UserError: no column holds images, or several could be meant.
    """
    with open_table(path) as table:
        schema = table.schema
    features = _features(schema)
    images = [field.name for field in schema if _holds_bytes(field.type)]
    image = IMAGE if IMAGE in images else images[0] if len(images) == 1 else ""
    if not image:
        found = f"several columns of bytes ({listed(images)})" if images else f"the columns {listed(schema.names)}"
        raise UserError(f"{path} has {found}; expected one called {IMAGE!r}, of the bytes of image files")
    labels = [
        name for name, feature in features.items() if feature.get("_type") == "ClassLabel" and name in schema.names
    ]
    if LABEL not in schema.names and len(labels) > 1:
        raise UserError(f"{path} has the labels {listed(labels)}; rename the one to learn to {LABEL!r} (rename_column)")
    label = LABEL if LABEL in schema.names else labels[0] if labels else ""
    names = features.get(label, {}).get("names") or ()
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} has names of classes that are no texts; write the data set again")
    return Columns(image, label, tuple(map(class_name, names)))


def _features(schema: "pyarrow.Schema") -> dict[str, dict]:
    """What `datasets` stores about each column."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return {name: feature for name, feature in found.items() if isinstance(feature, dict)}


def _holds_bytes(kind: "pyarrow.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index(BYTES) >= 0 and _holds_bytes(kind.field(BYTES).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def label_texts(path: str, column: "pyarrow.ChunkedArray") -> tuple[np.ndarray, list[str]]:
    """Labels as indices int64 `[n]` (-1: none), and what each index means.

    Raises:
      UserError: they are no labels.
    """
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"{path} has labels of type {kind}; expected numbers from 0 on, or names")
    encoded = column.cast(kind).combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    index = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return index, [str(value) for value in encoded.dictionary.to_pylist()]


def image_ranges(path: str, arrow: str, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Offset and size int64 `[n]` of each image in an Arrow file.

    Args:
      path: of the table, for messages.
      arrow: the file that holds its images.
      columns: of the table.

    Raises:
      UserError: an image has no bytes, or they are compressed.
    """
    with open_table(arrow):  # tells what is wrong with it
        table, whole = _read_arrow(arrow)
    offsets, sizes, row = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for chunk in table.column(columns.image).chunks:
        values = chunk.field(chunk.type.get_field_index(BYTES)) if chunk.type.num_fields else chunk
        missing = np.asarray(chunk.is_null()) | np.asarray(values.is_null())
        if missing.any():
            raise UserError(
                f"{path}[{row + int(missing.argmax())}] has no bytes of an image, but at most a path, which is not "
                "read; save the data set with the images in it, as save_to_disk and to_parquet do"
            )
        if len(chunk):
            starts, lengths = _byte_ranges(path, values, whole)
            offsets.append(starts)
            sizes.append(lengths)
        row += len(chunk)
    return np.concatenate(offsets), np.concatenate(sizes)


def _byte_ranges(path: str, values: "pyarrow.Array", whole: "pyarrow.Buffer") -> tuple[np.ndarray, np.ndarray]:
    import pyarrow as pa

    _, ends, data = values.buffers()
    kind = np.int64 if pa.types.is_large_binary(values.type) else np.int32
    bounds = np.frombuffer(ends, kind)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    first = data.address - whole.address if data else 0
    size = data.size if data else 0
    if not 0 <= first <= whole.size - size:
        raise UserError(f"{path} is compressed; write it without compression, or as Parquet")
    if bounds[0] < 0 or bounds[-1] > size or (np.diff(bounds) < 0).any():
        raise UserError(f"{path} is damaged: it names bytes that it does not have; restore it")
    return first + bounds[:-1], np.diff(bounds)


def unpack(paths: Sequence[str], columns: Mapping[str, Columns]) -> list[str]:
    """Arrow files with the images of tables: Parquet stores many rows as one, of which none is read alone.

    Raises:
      UserError: a file is damaged, or the cache cannot hold what is unpacked.
    """
    targets = [_target(path) if path.endswith(PARQUET) else path for path in paths]
    missing = [(path, Path(target)) for path, target in zip(paths, targets, strict=True) if not os.path.exists(target)]
    if missing:
        from beit_jax.runtime.progress import progress_bar

        _check_space([path for path, _ in missing])
        with progress_bar(len(missing), 0, "Parquet files unpacked", delay=SHOW_AFTER_S) as progress:
            for path, target in missing:
                _unpack(path, target, columns[path])
                progress.update()
    return targets


def _target(path: str) -> str:
    status = os.stat(path)
    key = repr((FORMAT, os.path.realpath(path), status.st_size, status.st_mtime_ns)).encode()
    return str(cache_folder() / "parquet" / f"{hashlib.blake2b(key, digest_size=16).hexdigest()}{ARROW}")


def _check_space(paths: Sequence[str]) -> None:
    folder = cache_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    needed, free = sum(map(os.path.getsize, paths)), shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"unpacking {paths[0]} takes {needed / 2**30:.1f} GiB in {folder}, where {free / 2**30:.1f} GiB are free; "
            f"set the environment variable {VARIABLE} to a folder with more"
        )


def _unpack(path: str, target: Path, columns: Columns) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            schema = pa.schema([file.schema_arrow.field(columns.image)])
            batches = file.iter_batches(ROWS, columns=[columns.image], use_threads=False)
            with (
                atomic_write(target) as part,
                pa.OSFile(str(part), "wb") as sink,
                pa.ipc.new_stream(sink, schema) as writer,
            ):
                for batch in batches:
                    writer.write_batch(pa.record_batch(batch.columns, schema=schema))
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is damaged or cut short ({str(error).splitlines()[0]}); restore it") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be unpacked into {target.parent} ({error}); set the environment variable {VARIABLE} to a "
            "folder that can be written, or restore the file"
        ) from error
