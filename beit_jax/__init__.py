"""BEiT in JAX: train a visual tokenizer, pre-train by masked image modelling, fine-tune."""

__version__ = "0.1.0"
