"""Images in, NumPy batches out. `pipeline` is the door; TensorFlow is imported behind it and nowhere else."""
