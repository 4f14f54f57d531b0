"""Whether a run may be continued with a config."""

from ml_collections import ConfigDict

from beit_jax.config.schema import declared_keys
from beit_jax.config.serialization import flatten


def differing_keys(there: ConfigDict, now: ConfigDict) -> list[str]:
    """The keys, flattened, in which `now` and the older config `there` differ, without keys that are `resumable`."""
    stages = now.get("stages", ())
    free = {f"{name}.{key}" for name in stages for key in _resumable(now[name])} if stages else _resumable(now)
    before, after = flatten(there), flatten(now)
    differing = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    return sorted(differing - free)


def _resumable(config: ConfigDict) -> set[str]:
    declared = declared_keys(config)
    return {name for name, key in declared.items() if key.resumable}
