"""The third driving world: traffic of a published simulator (SUMO), developed independently of this project."""
