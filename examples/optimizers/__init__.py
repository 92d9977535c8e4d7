"""One problem, and every way to train on it: each file runs by itself and prints what became of the loss."""
