"""How the model is sampled: the diffusion process, the samplers, batches on a device.

It imports the root modules and the wings up to `cdm.model`.
"""
