"""The compiled step of a config for every combination of some settings, a row each."""

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from beit_jax.config import override
from beit_jax.errors import UserError

COLUMNS = ("batch", "ms a step", "of peak", "images/s", "peak GiB", "fits", "compiled in s")


def combinations(settings: Sequence[str]) -> list[list[str]]:
    """All combinations of settings such as "model.unroll=1,3,12", as lists of "model.unroll=3".

    Raises:
      UserError: a setting has another form.
    """
    values = []
    for setting in settings:
        key, equals, choices = setting.partition("=")
        if not (key and equals and all(choices.split(","))):
            raise UserError(f"found --sweep {setting}; expected KEY=VALUE,VALUE,..., such as model.unroll=1,3,12")
        values.append([f"{key}={choice}" for choice in choices.split(",")])
    return [list(chosen) for chosen in itertools.product(*values)]


def apply(config: ConfigDict, chosen: Sequence[str]) -> ConfigDict:
    """A copy of a config with other values.

    Raises:
      UserError: there is no such key, or a value does not fit it.
    """
    changed = copy.deepcopy(config)
    override(changed, [f"--config.{setting}" for setting in chosen])
    return changed


def run(
    config: ConfigDict, settings: Sequence[str], measure: Callable[[ConfigDict], dict[str, Any]], as_json: bool
) -> None:
    """Prints a row for each combination.

    Args:
      config: as the command line made it.
      settings: see `combinations`.
      measure: figures of a config, see `compiled.measure_compiled_step`. A `UserError` becomes a row.
      as_json: whether the last line is one JSON object.

    Raises:
      UserError: a setting is wrong; this is found before anything is compiled.
    """
    configs = {" ".join(chosen): apply(config, chosen) for chosen in combinations(settings)}
    rows = []
    print("\n".join(heading("settings", COLUMNS)), flush=True)
    for name, changed in configs.items():
        try:
            rows.append({"settings": name, **measure(changed)})
        except UserError as error:
            rows.append({"settings": name, "error": str(error)})
        print(row(name, rows[-1], cells, COLUMNS), flush=True)
    if as_json:
        print(json.dumps({"rows": rows}))


def heading(first: str, columns: Sequence[str]) -> Iterator[str]:
    """The first two lines of a table in Markdown."""
    yield f"| {first} | {' | '.join(columns)} |"
    yield f"| --- |{' --- |' * len(columns)}"


def row(
    name: str, figures: dict[str, Any], cells: Callable[[dict[str, Any]], list[str]], columns: Sequence[str]
) -> str:
    """A line of the table; of figures that are an `error`, the reason in the first of the columns."""
    if "error" in figures:
        return f"| {name} | {figures['error'].replace('|', '/')} |{' |' * (len(columns) - 1)}"
    return f"| {name} | {' | '.join(cells(figures))} |"


def cells(figures: dict[str, Any]) -> list[str]:
    """The values of `COLUMNS`; a simulated device has no time."""
    share, bound = figures.get("share_of_peak"), "" if figures.get("estimated", True) else ">= "
    return [
        f"{figures['batch_size']:,}",
        f"{bound}{figures['step_ms']:,.1f}" if "step_ms" in figures else "-",
        f"{share:.1%}" if share else "-",
        f"{figures['images_per_second']:,.0f}" if "step_ms" in figures else "-",
        f"{figures['memory']['peak'] / 2**30:.2f}",
        {True: "yes", False: "no", None: "-"}[figures.get("fits")],
        f"{figures['compile_seconds']:.0f}",
    ]
