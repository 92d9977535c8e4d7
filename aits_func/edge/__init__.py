"""Floor 4. Files, terminals, pictures: the only impure room."""
