"""What is kept: Zarr stores that are whole or not there, their reader, their exports.

It imports the root modules and `cdm.datasets` only; reading and writing maps needs no torch.
"""

from cdm.archive.reader import ContactMaps

__all__ = ["ContactMaps"]
