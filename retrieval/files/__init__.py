"""Files and folders that are written completely or not at all, by one process at a time."""

from retrieval.files.claims import claimed, is_claimed
from retrieval.files.folders import folder_in_one_piece, make_place, require_elsewhere, require_only, require_place
from retrieval.files.lock import LOCK_NAME, is_locked, locked
from retrieval.files.outputs import (
    begins_with,
    claim_file,
    claim_folder,
    require_free_file,
    require_free_folder,
    require_mark,
)
from retrieval.files.writing import write_bytes, write_json, write_text

__all__ = [
    "LOCK_NAME",
    "begins_with",
    "claim_file",
    "claim_folder",
    "claimed",
    "folder_in_one_piece",
    "is_claimed",
    "is_locked",
    "locked",
    "make_place",
    "require_elsewhere",
    "require_free_file",
    "require_free_folder",
    "require_mark",
    "require_only",
    "require_place",
    "write_bytes",
    "write_json",
    "write_text",
]
