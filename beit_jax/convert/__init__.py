"""Reads and writes checkpoints of Hugging Face, the official code, timm, and OpenAI's dVAE."""

from beit_jax.convert.preprocessing import preprocess
from beit_jax.convert.pretrained import Pretrained, from_pretrained, save_pretrained

__all__ = ["Pretrained", "from_pretrained", "preprocess", "save_pretrained"]
