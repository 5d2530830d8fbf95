"""The built-in rooms and their weights, so that everything can be tried without data.

It imports the root modules and the wings up to `cdm.datasets`.
"""
