"""Video generators with one interface: the tiny models trained here, and families of published models."""
