from cdm.archive.store import ContactMaps

__all__ = ["ContactMaps"]
