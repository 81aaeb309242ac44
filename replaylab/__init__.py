"""Does replay keep a fine-tuned driving video generator from forgetting how things move?

A flat library: every room answers one question and its module says which. The one way through is
worlds -> domain folder -> clips -> train -> evaluate -> rows -> figures, and `sweep` runs the middle of it for a
grid of replay fractions. This module imports nothing: reading results must not cost the import of torch.
"""
