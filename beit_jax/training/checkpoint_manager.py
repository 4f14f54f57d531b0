"""The checkpoints of one run: Orbax, asynchronous, atomic, kept by rule, and checked when they are read again."""

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
from beit_jax.runtime.distributed import agree, barrier, from_main, is_main
from beit_jax.training import checkpoint
from beit_jax.training.train_step import TrainState


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Path, keep: int = 1, keep_every: int = 0):
        """
        Args:
          run: the run's folder; checkpoints lie in `checkpoints/STEP` below it.
          keep: how many of the newest are kept.
          keep_every: those of every so many steps are kept for good; 0: none.
        """
        self._folder = (run / checkpoint.FOLDER).absolute()
        kept = [preservation_policy.LatestN(keep)]
        if keep_every:
            kept.append(preservation_policy.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(preservation_policy=preservation_policy.AnyPreservationPolicy(kept))
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self.meta: dict[str, Any] = {}  # of the checkpoint restored
        self._unsealed: int | None = None  # the step saved last, or being saved, without checksums
        self._sealer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checksums")

    def latest_step(self) -> int | None:
        """The newest step saved, whether or not it can be read."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, meta: Mapping[str, Any]) -> None:
        """Starts to write the state; returns as soon as it is copied off the devices.

        Raises:
          UserError: the disk is too full, or an earlier save failed in the background; older checkpoints are whole.
        """
        items = {
            "params": ocp.args.StandardSave(state.params),
            "state": ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
            "meta": ocp.args.JsonSave({"versions": checkpoint.versions(), **meta}),
        }
        if state.ema is not None:
            items["ema"] = ocp.args.StandardSave(state.ema)
        needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(state)), shutil.disk_usage(self._folder).free
        if is_main() and free < needed:
            raise UserError(
                f"the checkpoint of step {step} needs {needed / 2**20:,.1f} MiB and {self._folder} has "
                f"{free / 2**20:,.1f} MiB left; make room, and run the same command again{self._older()}"
            )
        if is_main():
            checksums.unseal(self._folder / str(step))
        with self._errors():
            self._manager.save(step, args=ocp.args.Composite(**items))
        self.check()  # the save before this one has ended
        self._unsealed = step

    def check(self) -> None:
        """Looks after a save that is under way; cheap, called after every step.

        Raises:
          UserError: it failed.
        """
        if self._unsealed is None:
            return
        with self._errors():
            self._manager.check_for_errors()
        if is_main() and (self._folder / str(self._unsealed)).is_dir():
            self._sealer.submit(checksums.seal, self._folder / str(self._unsealed))
            self._unsealed = None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of writing, now or in the background, as one line."""
        try:
            yield
        except Exception as error:
            reason = str(error).partition("\n")[0].rpartition('": ')[2]  # what the system said stands at the end
            raise UserError(
                f"a checkpoint could not be written to {self._folder} ({type(error).__name__}: {reason}); see that "
                f"there is room, and run the same command again{self._older()}"
            ) from error

    def _older(self) -> str:
        whole = [step for step in self._manager.all_steps() if (self._folder / str(step)).is_dir()]
        return f" to continue from step {max(whole)}, which is whole" if whole else ""

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest state that can be read, or None where none was ever saved.

        Newer ones that cannot be read are set aside, once a good one is found.

        Args:
          abstract: shapes, dtypes and shardings of the state (`jax.ShapeDtypeStruct`).

        Raises:
          UserError: no checkpoint can be read, or one is of another model; they stay where they are.
        """
        broken: dict[int, str] = {}
        # A file system over a network may show each host another list.
        for step in json.loads(from_main(json.dumps(sorted(self._manager.all_steps(), reverse=True)))):
            folder, state = self._folder / str(step), None
            reason = checksums.damage(folder) if is_main() else ""
            if not agree(bool(reason)):
                try:
                    state = checkpoint.restore(folder, abstract)
                except checkpoint.DAMAGE as error:
                    reason = checkpoint.first_line(error)
            if agree(state is None):
                broken[step] = reason or "another process found it damaged"
                continue
            for newer, reason in broken.items():
                self._set_aside(newer, reason)
            if is_main() and not checksums.sealed(folder):
                self._sealer.submit(checksums.seal, folder)
            with contextlib.suppress(UserError):
                self.meta = checkpoint.load_meta(folder)
            self.meta = json.loads(from_main(json.dumps(self.meta)))
            return state
        if broken:
            raise UserError(
                f"none of the checkpoints in {self._folder} can be read ({broken[max(broken)]}); delete that folder to "
                "start from scratch"
            )
        return None

    def close(self) -> None:
        """Waits for saves under way.

        Raises:
          UserError: one failed.
        """
        with self._errors():
            self._manager.wait_until_finished()
        self.check()
        self._sealer.shutdown()
        self._manager.close()

    def _set_aside(self, step: int, reason: str) -> None:
        """A step that stays in place would make Orbax refuse to save that step again, without a word."""
        broken = self._folder / str(step)
        names = (f"{step}.broken{number or ''}" for number in itertools.count())
        aside = next(path for path in map(self._folder.joinpath, names) if not path.exists())
        barrier("damaged checkpoint")
        if is_main():
            checksums.unseal(broken)
            broken.rename(aside)
        barrier("damaged checkpoint")
        self._manager.reload()
        warnings.warn(
            f"checkpoint {broken} cannot be read ({reason}); set aside as {aside.name}, using the one before it",
            stacklevel=3,
        )
