"""What the input contains, and which part of it has to be labelled."""
