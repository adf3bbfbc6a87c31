"""The command line. The only room that prints."""

from sapiens_ray.cli.commands import main

__all__ = ["main"]
