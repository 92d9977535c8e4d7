"""Floor 1. Networks, optimizers, losses; knows no particle."""
