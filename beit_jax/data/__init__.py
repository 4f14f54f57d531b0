"""Images in, NumPy batches out. `pipeline` is the entry point. Only `data/` and `benchmarks/` import TensorFlow."""

import os

# TensorFlow prints notes on its build, on which no user can act, and on oneDNN, which the input does not need.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
