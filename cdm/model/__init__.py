"""What is sampled: the contact diffusion model, its conditions, and its checkpoints.

It imports the root modules and the wings up to `cdm.demo`.
"""
