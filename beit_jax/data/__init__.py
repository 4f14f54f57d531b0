"""Images in, NumPy batches out. `pipeline` is the door; TensorFlow is imported behind it and nowhere else."""

import os

# TensorFlow greets with notes on its build that no user can act on, and on oneDNN, which the pipeline does not need.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
