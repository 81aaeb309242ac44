"""The world of the game Doom: its map, its walks and its truth."""
