"""The command line. The only subpackage that prints."""

from sapiens_ray.cli.commands import main

__all__ = ["main"]
