"""Files and folders that are written completely or not at all, regular files only to read, and a lock for a folder."""

from retrieval.files.folders import folder_in_one_piece, make_place, require_elsewhere, require_only, require_place
from retrieval.files.lock import LOCK_NAME, is_locked, locked
from retrieval.files.outputs import claim_file, require_free_file, require_free_folder
from retrieval.files.reading import open_file, read_file, read_text
from retrieval.files.writing import write_bytes, write_json, write_text

__all__ = [
    "LOCK_NAME",
    "claim_file",
    "folder_in_one_piece",
    "is_locked",
    "locked",
    "make_place",
    "open_file",
    "read_file",
    "read_text",
    "require_elsewhere",
    "require_free_file",
    "require_free_folder",
    "require_only",
    "require_place",
    "write_bytes",
    "write_json",
    "write_text",
]
