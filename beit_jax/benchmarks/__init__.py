"""What `python -m beit_jax.benchmark` measures: one file each."""
