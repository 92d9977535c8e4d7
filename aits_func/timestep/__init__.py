"""Floor 2. Where physics and learning meet, in the time step of one system."""
