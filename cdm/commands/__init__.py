"""What people ask about a run: how far it is, why a chunk runs, whether it is intact.

It imports the root modules and the wings up to `cdm.run`.
"""
