"""What is kept: Zarr stores that are whole or not there, their reader, their exports.

It imports the root modules and `cdm.datasets` only. Reading and writing maps needs no torch; only
`cdm.archive.torch_dataset`, for training on them, does.
"""

from cdm.archive.reader import ContactMaps

__all__ = ["ContactMaps"]
