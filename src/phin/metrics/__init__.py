"""How good pictures are: read back, and measured against real ones."""
