"""Floor 3. Batches, time and decisions: the loops of training and simulation."""
