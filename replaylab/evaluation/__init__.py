"""Measures of generated continuations of held-out clips, reference baselines, and the validity of each measure."""
