"""What one process does to a unit: assemble, prepare, run the models, draw. No Ray."""
