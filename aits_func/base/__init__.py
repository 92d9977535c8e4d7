"""Floor 0. Types, trees, random keys, validators: torch, optree and the standard library alone."""
