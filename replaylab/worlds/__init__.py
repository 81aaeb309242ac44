"""Rendered worlds in which every position is known, each built as a domain."""
