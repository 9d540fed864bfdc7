"""Archives for the tests of `retrieval.data.archives`, some of them with sizes that are made up."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path


def make_tar(path: Path, members: Iterable[tuple[tarfile.TarInfo | str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, members: Iterable[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


def make(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        return make_zip(path, files.items())
    return make_tar(path, files.items(), "w:gz" if path.suffix in (".tgz", ".gz") else "w")


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def sparse_tar(path: Path, kind: str, size: int) -> Path:
    """A small archive of a file that is said to have `size` bytes, most of them holes."""
    info = tarfile.TarInfo("a.jpg")
    if kind == "GNU":
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 4
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[386:410] = b"%011o\0%011o\0" % (0, 4)  # the one piece of data: its offset and its length
        header[483:495] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
        header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
        path.write_bytes(bytes(header) + b"data".ljust(512, b"\0") + bytes(1024))
        return path
    fields = {
        "0.0": {"size": str(size), "offset": "0", "numbytes": "4"},
        "0.1": {"map": f"0,4,{size},0", "size": str(size)},
        "1.0": {"major": "1", "minor": "0", "name": "a.jpg", "realsize": str(size)},
    }
    info.pax_headers = {f"GNU.sparse.{key}": value for key, value in fields[kind].items()}
    content = f"2\n0\n4\n{size}\n0\n".encode().ljust(512, b"\0") + b"data" if kind == "1.0" else b"data"
    return make_tar(path, [(info, content)])


def overlapping_zip(path: Path, size: int, count: int) -> Path:
    """An archive whose entries all have the one content of `size` zeros."""
    content = make_zip(path, [("0.jpg", bytes(size))]).read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry, end = archive.start_dir, len(content) - 22
    entries = b"".join(content[entry:end].replace(b"0.jpg", b"%d.jpg" % number) for number in range(count))
    last = content[end : end + 8] + struct.pack("<HHL", count, count, len(entries)) + content[end + 16 :]
    path.write_bytes(content[:entry] + entries + last)
    return path
