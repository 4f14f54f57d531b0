"""Evaluations that need more than a task's forward pass."""
