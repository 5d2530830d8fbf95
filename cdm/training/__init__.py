"""Training of a contact diffusion model, whose checkpoints the workflow then samples.

It imports the root modules and the wings up to `cdm.evaluation`.
"""
