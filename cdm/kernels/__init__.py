"""Compute: one folder for each operation, with its naive form and its fast forms.

It imports the root modules and nothing else of `cdm`.
"""
