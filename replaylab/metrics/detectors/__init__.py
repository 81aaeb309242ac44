"""Detectors of agents in frames: the shipped one, and any object detector of transformers."""
