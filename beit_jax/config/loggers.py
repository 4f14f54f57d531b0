"""The services that a run can log to, beside its own files."""

from beit_jax.config.keys import Key, Keys
from beit_jax.config.registry import Registry

# For each logger, the libraries that it needs. `training/loggers` has the classes.
LOGGERS: Registry[tuple[str, ...]] = Registry(
    "logger", {"wandb": ("wandb",), "trackio": ("trackio",), "mlflow": ("mlflow",)}
)


def logger_keys() -> Keys:
    """The keys of the loggers, which every task has."""
    return dict(
        loggers=Key(
            (),
            "services to log to, too: wandb, trackio, mlflow; without the name of a stage: of every stage",
            check=_check_names,
            resumable=True,
        ),
        project=Key(
            "beit_jax", "project of the loggers; MLflow calls it experiment", check=_check_project, resumable=True
        ),
    )


def _check_names(names: tuple[str, ...]) -> str:
    wrong = [name for name in names if name not in LOGGERS.names]
    if not wrong and len(set(names)) == len(names):
        return ""
    return f"names of {', '.join(LOGGERS.names)}, or of a file of your own (--plugin=FILE), each once"


def _check_project(project: str) -> str:
    return "" if project.strip() else "a name"


def libraries_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The libraries that loggers need; names that are unknown need none."""
    return tuple(library for name in names if name in LOGGERS.names for library in LOGGERS.find(name))
