"""Measures and ways of predicting that need more than a task's forward pass."""
