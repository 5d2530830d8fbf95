"""What people look at: maps in 3D beside the truth, as a part of a page or served by `cdm view`.

The page's script is built from gallery/ at the root of the repository (CONTRIBUTING.md says how).
"""

from cdm.gallery.fragment import gallery_fragment
from cdm.gallery.gather import gather_items
from cdm.gallery.items import GalleryItem, Measured

__all__ = ["GalleryItem", "Measured", "gallery_fragment", "gather_items"]
