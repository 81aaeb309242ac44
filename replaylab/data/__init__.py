"""Domains on disk: folders of videos with what is known of them, and the clips read from them."""
