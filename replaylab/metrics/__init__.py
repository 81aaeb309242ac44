"""Metrics as functions of arrays, and the networks that some of them use."""
