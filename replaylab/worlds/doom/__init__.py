"""The world of the game Doom: its maps, walks through them, and the ground truth."""
