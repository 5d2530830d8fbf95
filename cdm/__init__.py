"""Samples contact diffusion models over whole datasets; a wing for each part of a run."""
