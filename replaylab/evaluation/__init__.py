"""Measures of what a model generates on held-out clips, reference baselines, and how far each measure can be trusted."""
