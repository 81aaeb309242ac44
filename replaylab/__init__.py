"""Does replay keep a fine-tuned driving video generator from forgetting how things move?

Packages import one way, in this order: data, worlds, metrics, models, evaluation, training, sweeps, analysis, pages, cli.
This module imports nothing: reading results must not cost the import of torch.
"""
