"""The third driving world: traffic moved by a published simulator (SUMO), which nobody here drew."""
