"""The work on a unit in one process: assemble, prepare, run the models, draw. Does not use Ray."""
