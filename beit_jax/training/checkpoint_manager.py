"""Writes the checkpoints of one run with Orbax, asynchronous and atomic, and checks them when they are read again."""

import concurrent.futures
import contextlib
import itertools
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from beit_jax.errors import UserError
from beit_jax.runtime import checksums
from beit_jax.runtime.bucket_retries import BucketError
from beit_jax.runtime.checkpoint_folder import FOLDER, commit_copies, own_checkpoints
from beit_jax.runtime.distributed import any_process, barrier, broadcast_from_main, is_main
from beit_jax.runtime.urls import is_bucket
from beit_jax.training import checkpoint
from beit_jax.training.train_step import TrainState


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Path, keep: int = 1):
        """
        Args:
          run: the run's folder; checkpoints lie in `checkpoints/STEP` below it.
          keep: how many of the newest are kept.
        """
        self._folder = (run / FOLDER).absolute()
        if is_main():
            commit_copies(run)
        barrier("copied checkpoints")
        options = ocp.CheckpointManagerOptions(preservation_policy=preservation_policy.LatestN(keep))
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self.meta: dict[str, Any] = {}  # of the checkpoint restored
        self._pending: int | None = None  # the step that is being saved, or was saved and has no checksums yet
        self._newest: int | None = None  # the step that was saved last
        self._items: list[str] = []  # of that checkpoint; arrays
        self._checksums: list[concurrent.futures.Future[None]] = []  # that are being written
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checksums")

    def latest_step(self) -> int | None:
        """The newest step saved, whether or not it can be read."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, meta: Mapping[str, Any]) -> None:
        """Starts to write the state; returns as soon as it is copied from the devices.

        Raises:
          UserError: the disk is too full, or an earlier save failed in the background; older checkpoints are intact.
        """
        items = {
            "params": ocp.args.StandardSave(state.params),
            "state": ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
            "meta": ocp.args.JsonSave({"versions": checkpoint.library_versions(), **meta}),
        }
        if state.ema is not None:
            items["ema"] = ocp.args.StandardSave(state.ema)
        self._check_space(step, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        with self._errors():
            self._manager.wait_until_finished()
        self.check_pending()
        concurrent.futures.wait(self._checksums)  # Orbax deletes older checkpoints when this one is complete
        with self._errors():
            starts = self._manager.save(step, args=ocp.args.Composite(**items))
        if not starts:
            raise UserError(
                f"the checkpoint of step {step} was not written, because {self._folder} has one of step "
                f"{self._manager.latest_step()}, which was not there when the run started; remove that folder, and "
                f"run the same command again{self._older()}"
            )
        self._pending = self._newest = step
        self._items = [name for name in items if name != "meta"]

    def _check_space(self, step: int, needed: int) -> None:
        """Raises UserError if the disk is too full for a checkpoint; a bucket never is."""
        if not is_main() or is_bucket(self._folder):
            return
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise UserError(
                f"the checkpoint of step {step} needs {needed / 2**20:,.1f} MiB and {self._folder} has "
                f"{free / 2**20:,.1f} MiB left; free some space, and run the same command again{self._older()}"
            )

    def check_pending(self) -> None:
        """Checks the save in the background, and writes its checksums when it is complete; cheap, for every step.

        Raises:
          UserError: the save failed.
        """
        if self._pending is None:
            return
        with self._errors():
            self._manager.check_for_errors()
        if is_main() and not self._manager.is_saving_in_progress():
            self._write_checksums(self._folder / str(self._pending))
            self._pending = None

    def _write_checksums(self, folder: Path) -> None:
        """Starts to write them, or to try: a checkpoint can be used without."""
        self._checksums = [self._thread.submit(checksums.write_checksums, folder)]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns errors of writing, now or in the background, into one line."""
        try:
            yield
        except BucketError:
            self._newest = None
            raise
        except Exception as error:
            self._newest = None  # nothing to read back
            if is_bucket(self._folder):
                raise UserError(
                    f"a checkpoint could not be written to {self._folder} ({checkpoint.describe_error(error)}); check "
                    f"the bucket and the rights to it, and run the same command again{self._older()}"
                ) from error
            reason = str(error).partition("\n")[0].rpartition('": ')[2]  # the system's message is at the end
            raise UserError(
                f"a checkpoint could not be written to {self._folder} ({type(error).__name__}: {reason}); free some "
                f"space or repair the disk, and run the same command again{self._older()}"
            ) from error

    def _older(self) -> str:
        intact = []
        with contextlib.suppress(OSError, BucketError):
            intact = [int(folder.name) for folder in own_checkpoints(self._folder.parent)]
        return f" to continue from step {max(intact)}, which is intact" if intact else ""

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest state that can be read, or None where none was ever saved.

        Newer ones that cannot be read are set aside once an intact one is found.

        Args:
          abstract: shapes, dtypes and shardings of the state (`jax.ShapeDtypeStruct`).

        Raises:
          UserError: no checkpoint can be read, or one is of another model or another step; all stay where they are.
        """
        damaged: dict[int, str] = {}
        # A network file system may show each host another list.
        for step in json.loads(broadcast_from_main(json.dumps(sorted(self._manager.all_steps(), reverse=True)))):
            folder, state = self._folder / str(step), None
            reason = checksums.find_damage(folder) if is_main() else ""
            if not any_process(bool(reason)):
                try:
                    state = checkpoint.load_state(folder, abstract)
                except checkpoint.DAMAGE_ERRORS as error:
                    reason = checkpoint.describe_error(error)
            if any_process(state is None):
                damaged[step] = reason or "another process cannot read it"
                continue
            _check_number(folder, int(state.step))
            for newer, reason in damaged.items():
                self._set_aside(newer, reason)
            if is_main() and not checksums.has_checksums(folder):
                self._write_checksums(folder)
            try:
                self.meta = checkpoint.load_meta(folder)
            except UserError as error:  # it is damaged, and the run can do without
                if isinstance(error, BucketError):
                    raise
            self.meta = json.loads(broadcast_from_main(json.dumps(self.meta)))
            return state
        if damaged:
            raise UserError(
                f"none of the checkpoints in {self._folder} can be read ({damaged[max(damaged)]}); delete that folder "
                "to start from scratch"
            )
        return None

    def close(self) -> None:
        """Waits for the save in the background, and checks that it can be read back.

        Raises:
          UserError: it failed.
        """
        try:
            with self._errors():
                self._manager.wait_until_finished()
            self.check_pending()
        finally:
            self._thread.shutdown()  # waits for the checksums, which read every byte of the checkpoint
            self._manager.close()
        if self._newest is not None and is_main():  # a network file system may show it to other hosts later
            checkpoint.check_items(self._folder / str(self._newest), self._items)

    def _set_aside(self, step: int, reason: str) -> None:
        """Renames a damaged checkpoint: Orbax would silently refuse to save a step that exists."""
        damaged = self._folder / str(step)
        names = (f"{step}.broken{number or ''}" for number in itertools.count())
        aside = next(path for path in map(self._folder.joinpath, names) if not path.exists())
        barrier("damaged checkpoint")
        if is_main():
            damaged.rename(aside)
        barrier("damaged checkpoint")
        self._manager.reload()
        warnings.warn(
            f"checkpoint {damaged} cannot be read ({reason}); set aside as {aside.name}, using the one before it",
            stacklevel=3,
        )


def _check_number(folder: Path, step: int) -> None:
    """Orbax writes no checkpoint of a step below the highest number that it finds.

    Raises:
      UserError: the state in a folder is of another step than its name.
    """
    if folder.name != str(step):
        raise UserError(
            f"checkpoint {folder} holds the state of step {step}; rename the folder to {step}, or remove it"
        )
