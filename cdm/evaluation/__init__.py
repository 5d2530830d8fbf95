"""How good the maps are: measures, the report, and the study of samplers.

It imports the root modules and the wings up to `cdm.commands`.
"""
