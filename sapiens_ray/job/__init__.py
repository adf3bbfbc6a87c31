"""The job file. Imports neither ray nor torch."""
