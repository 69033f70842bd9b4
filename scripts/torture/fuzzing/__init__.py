"""A process of its own for each thing that is fuzzed."""
