"""Video generators behind one interface: the tiny ones that are trained here, and families of published models."""
