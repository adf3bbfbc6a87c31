"""Labels for training loops: which rows there are, how processes divide them, and rows as tensors."""
