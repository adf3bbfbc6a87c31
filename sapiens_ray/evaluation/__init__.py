"""Labels compared with ground truth. `evaluate.py` is the entry; the `*_metrics.py` modules are pure numpy."""
