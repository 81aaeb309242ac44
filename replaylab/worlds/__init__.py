"""Rendered worlds with exact ground truth, each built as a domain."""
