"""What is kept: Zarr stores that are whole or not there, their reader, their exports.

It imports the root modules and `cdm.datasets` only. Reading and writing maps needs no torch; only
`cdm.archive.torch_dataset`, for training on them, does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdm.archive.reader import ContactMaps

__all__ = ["ContactMaps"]


def __getattr__(name: str) -> Any:
    """Import the reader when it is first asked for: planning and jobs start without zarr."""
    if name == "ContactMaps":
        from cdm.archive.reader import ContactMaps

        return ContactMaps
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
