"""Grids of runs: presets, the training of missing runs here or in jobs, and the resulting table."""
