"""Domains on disk: folders of videos with their metadata and ground truth, and the clips read from them."""
