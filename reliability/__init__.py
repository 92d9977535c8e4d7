"""The campaigns behind docs/reliability.md: faults, hostile files, edge numbers, long runs, repeatability."""
