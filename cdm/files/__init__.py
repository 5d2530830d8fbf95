"""Files: whole or not there, locked while written, and read as what they should be.

It imports `cdm.errors` only.
"""

from cdm.files.content import (
    FileContent,
    FileState,
    checksum,
    clamp_future_mtimes,
    hash_file,
    list_names,
    may_be,
    read_bytes,
    read_with_state,
    state_of,
)
from cdm.files.kinds import HEAD, kind_of_weights, odd_kind, utf8_text
from cdm.files.locks import is_locked, lock_path, try_lock, unlock
from cdm.files.many import map_files
from cdm.files.names import expand_path, safe_name
from cdm.files.records import (
    digest,
    encode_json,
    is_sealed,
    read_json,
    seal,
    typed,
    unseal,
    write_json,
)
from cdm.files.remote import Place, RemotePath, place_of
from cdm.files.servers import RemoteState
from cdm.files.urls import checked_url, is_url, redacted
from cdm.files.whole import (
    CANNOT_LINK,
    explain_os_error,
    is_folder,
    remove,
    remove_if_unused,
    remove_leftovers,
    replacing,
    replacing_all,
    sole_writer,
    sync,
    target_of,
    temporary_name,
    write_bytes,
)

__all__ = [
    "CANNOT_LINK",
    "HEAD",
    "FileContent",
    "FileState",
    "Place",
    "RemotePath",
    "RemoteState",
    "checked_url",
    "checksum",
    "clamp_future_mtimes",
    "digest",
    "encode_json",
    "expand_path",
    "explain_os_error",
    "hash_file",
    "is_folder",
    "is_locked",
    "is_sealed",
    "is_url",
    "kind_of_weights",
    "list_names",
    "lock_path",
    "map_files",
    "may_be",
    "odd_kind",
    "place_of",
    "read_bytes",
    "read_json",
    "read_with_state",
    "redacted",
    "remove",
    "remove_if_unused",
    "remove_leftovers",
    "replacing",
    "replacing_all",
    "safe_name",
    "seal",
    "sole_writer",
    "state_of",
    "sync",
    "target_of",
    "temporary_name",
    "try_lock",
    "typed",
    "unlock",
    "unseal",
    "utf8_text",
    "write_bytes",
    "write_json",
]
