"""The families that diffusion models are compared with, or live inside."""
