"""What the input holds, and what of it is to be labelled."""
