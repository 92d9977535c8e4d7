"""Floor 1. What nature does to one system; knows no network."""
