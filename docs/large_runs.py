"""Prints the arithmetic of docs/pod.md: what a run on many chips needs of its input.

  python docs/large_runs.py

Images a second and chip are the estimates and upper bounds of `python -m beit_jax.benchmark table chips`, milliseconds
of a core those of `python -m beit_jax.benchmark input`, both as docs/benchmarks.md has them.
"""

from typing import NamedTuple

OFFICIAL_MS, FAST_MS = 4.93, 2.28  # of a core, for an image of 500x380
IMAGE_KB = 110  # a file of ImageNet-1k, on average
IMAGES, EPOCHS = 1_281_167, 800


class Cluster(NamedTuple):
    """Chips, chips of a host, and images a second and chip."""

    name: str
    chips: int
    per_host: int
    rate: float


CLUSTERS = (
    Cluster("v5e-256, B/16, tokens computed", 256, 8, 552),
    Cluster("v5e-256, B/16, tokens given", 256, 8, 832),
    Cluster("v5e-256, L/16, tokens given", 256, 8, 278),
    Cluster("32 H200, B/16, tokens computed", 32, 8, 3_119),
    Cluster("32 H200, B/16, tokens given", 32, 8, 4_372),
    Cluster("32 H200, L/16, tokens given", 32, 8, 1_381),
)


def main() -> None:
    """See the module's docstring."""
    head = ("run", "images/s", "hours", "hosts", "images/s a host", "cores: official", "fast", "MB/s a host", "Gbit/s")
    print("|", " | ".join(head), "|")
    print("|", " | ".join(["---"] * len(head)), "|")
    for name, chips, per_host, rate in CLUSTERS:
        total, host = chips * rate, per_host * rate
        cells = [f"{total:,.0f}", f"{EPOCHS * IMAGES / total / 3600:.1f}", f"{chips // per_host}", f"{host:,.0f}"]
        cells += [f"{host * ms / 1000:.0f}" for ms in (OFFICIAL_MS, FAST_MS)]
        cells += [f"{host * IMAGE_KB / 1000:,.0f}", f"{total * IMAGE_KB * 8 / 1e6:.0f}"]
        print("|", " | ".join((name, *cells)), "|")


if __name__ == "__main__":
    main()
