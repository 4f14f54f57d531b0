"""Writes shards of a data set with Apache Beam, on whatever runner it has: Dataflow, Flink, Spark, or this machine.

A shard is one element: paths of its images, their sizes and labels. The worker that gets it reads the images and writes
the file, so that no image passes through the runner, and a shard that is there already is not made again.
"""

import contextlib
import io
import logging
import re
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners import create_runner

from beit_jax.data.records.shard_plan import ImageFolder
from beit_jax.data.records.shard_writer import ShardFile, missing_shards, write_shard
from beit_jax.errors import UserError


def parse_options(runner: str, options: Sequence[str]) -> PipelineOptions:
    """Options of a pipeline.

    Args:
      runner: its name for Beam, such as DirectRunner or DataflowRunner.
      options: of Beam and of the runner, as `name` or `name=value`.

    Raises:
      UserError: Beam has no such runner or option, or a library of the runner is missing.
    """
    printed, made = io.StringIO(), None
    log, handler = logging.getLogger("apache_beam.options.pipeline_options"), logging.StreamHandler(printed)
    log.addHandler(handler)
    try:
        with contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):  # of Beam's own parser
            made = PipelineOptions([f"--runner={runner}", *(f"--{option}" for option in options)])
            made.get_all_options()
        create_runner(runner)
    except (ValueError, ImportError) as error:
        raise UserError(_reason(error, runner)) from error
    finally:
        log.removeHandler(handler)
    wrong = [line for line in printed.getvalue().splitlines() if re.search("[Uu]nparseable|: error: ", line)]
    if wrong or made is None:  # None: an option such as `help`, after which Beam's parser exits
        reason = wrong[0].rpartition("error: ")[2] if wrong else f"found {', '.join(options)}"
        raise UserError(f"Apache Beam does not take these --beam_option: {reason}")
    return made


def write_shards(images: ImageFolder, shards: Sequence[ShardFile], *, options: PipelineOptions) -> None:
    """Writes those shards that are missing, and waits for the end of the pipeline.

    Args:
      images: the folder, whose files all workers of the runner can read.
      shards: with paths that all workers can write.
      options: from `parse_options`.

    Raises:
      UserError: a worker could not read an image or write a file, or the runner failed.
    """
    logging.getLogger("apache_beam.runners").setLevel(logging.CRITICAL)  # traces of what is raised below
    parts = [_cut(images, shard) for shard in missing_shards(shards)]
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = pipeline | "shards" >> beam.Create(parts) | "write" >> beam.MapTuple(write_shard)
    except Exception as error:
        raise UserError(_reason(error, options.get_all_options()["runner"])) from error


def _cut(images: ImageFolder, shard: ShardFile) -> tuple[ImageFolder, ShardFile]:
    """A folder that has the images of one shard alone, and the shard with its new bounds."""
    split, part = images.splits[shard.split], slice(shard.start, shard.stop)
    own = split._replace(files=split.files[part], sizes=split.sizes[part], labels=split.labels[part])
    return images._replace(splits={shard.split: own}), shard._replace(start=0, stop=shard.stop - shard.start)


def _reason(error: Exception, runner: str) -> str:
    """One line: what a worker found, whose errors come as they are or in a text, or what Beam says."""
    text = re.sub(r" \[while running .*", "", str(error), flags=re.DOTALL) if isinstance(error, UserError) else ""
    found = re.findall(r"\bUserError: (.+?)(?: \[while running|\\n|$)", str(error), re.MULTILINE)
    if text or found:
        return text or found[-1]
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"Apache Beam's {runner} ended with: {lines[-1].strip()}"
