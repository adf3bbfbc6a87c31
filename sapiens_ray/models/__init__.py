"""Checkpoint files to callables on a device."""
