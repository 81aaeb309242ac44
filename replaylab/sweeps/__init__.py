"""Grids of runs: presets, what trains missing runs and where, and the table that comes back."""
