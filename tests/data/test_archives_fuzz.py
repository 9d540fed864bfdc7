"""Archives with made-up sizes: each is unpacked or refused in one line, within the bound on what is written."""

from __future__ import annotations

import contextlib
import gzip
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from data.made_archives import make, make_tar, overlapping_zip, sparse_tar, special

from retrieval.data import archives, preparation
from retrieval.errors import DatasetError, RetrievalError

BOUND = 1 << 20
FILES = {"images/a/1.jpg": bytes(range(256)) * 8, "images/b/2.jpg": b"", "list.txt": b"three" * 100}
SIZES = [
    -(1 << 62),
    -10240,
    -1024,
    -512,
    -1,
    0,
    1,
    511,
    512,
    513,
    10240,
    BOUND,
    1 << 31,
    1 << 32,
    1 << 40,
    (1 << 62) + 1,
]
KINDS = [b"\0", *(bytes([kind]) for kind in b"01234567DKLNSVXgxZ")]


def seeds(folder: Path) -> list[bytes]:
    """The contents of whole archives of each kind, and of archives that make up a size already."""
    link = special("images/link.jpg", tarfile.LNKTYPE, "images/a/1.jpg")
    device = special("device", tarfile.CHRTYPE)
    sized = tarfile.TarInfo("images/c.jpg")
    sized.pax_headers = {"size": "5", "comment": "a" * 600, "path": "images/" + "d" * 120}
    made = [
        make(folder / "a.tar", FILES),
        make(folder / "a.zip", FILES),
        make(folder / "long.tar", {"/".join(["e" * 90] * 4): b"1", "f.jpg": b"2"}),
        make_tar(folder / "kinds.tar", [("images/a/1.jpg", b"1"), (link, b""), (device, b"")]),
        make_tar(folder / "pax.tar", [(sized, b"12345")]),
        *(sparse_tar(folder / f"{kind}.tar", kind, 1 << 30) for kind in ("GNU", "0.0", "0.1", "1.0")),
        overlapping_zip(folder / "overlapping.zip", BOUND // 4, 20),
    ]
    with zipfile.ZipFile(folder / "zip64.zip", "w") as archive, archive.open("a.jpg", "w", force_zip64=True) as file:
        file.write(bytes(999))
    return [path.read_bytes() for path in (*made, folder / "zip64.zip")]


def alter_tar(content: bytearray, rng: random.Random) -> None:
    """Gives a header another size or kind, or makes up the rest of it; its check sum fits."""
    start = 512 * rng.randrange(max(1, len(content) // 512 - 2))
    header = content[start : start + 512].ljust(512, b"\0")
    way = rng.randrange(4)
    if way == 0:
        header[124:136] = tarfile.itn(rng.choice(SIZES), 12, tarfile.GNU_FORMAT)
    elif way == 1:
        header[156:157] = rng.choice(KINDS)
    elif way == 2:  # the fields of a sparse map, and whether more of it follows
        for offset in range(386, 483, 12):
            header[offset : offset + 12] = tarfile.itn(rng.choice(SIZES), 12, tarfile.GNU_FORMAT)
        header[482] = rng.randrange(2)
        header[483:495] = tarfile.itn(rng.choice(SIZES), 12, tarfile.GNU_FORMAT)
    else:
        header[rng.randrange(512)] = rng.randrange(256)
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    content[start : start + 512] = header


def alter_zip(content: bytearray, rng: random.Random) -> None:
    """Gives an entry other sizes or another place, in its local header or in the list at the end."""
    signature, offsets = rng.choice(
        [(b"PK\3\4", (14, 18, 22, 26)), (b"PK\1\2", (16, 20, 24, 28, 38, 42)), (b"PK\5\6", (8, 10, 12, 16))]
    )
    places = [place for place in range(len(content)) if content[place : place + 4] == signature]
    if places:
        place = rng.choice(places) + rng.choice(offsets)
        content[place : place + 4] = struct.pack("<Q", rng.choice(SIZES) % (1 << 64))[:4]


def alter_anywhere(content: bytearray, rng: random.Random) -> None:
    """Alters bytes, repeats a piece, or leaves out the rest."""
    place = rng.randrange(len(content))
    way = rng.randrange(4)
    if way == 0:
        content[place] ^= 1 << rng.randrange(8)
    elif way == 1:
        digits = str(rng.choice(SIZES)).encode()  # the fields of a pax header are text
        content[place : place + len(digits)] = digits
    elif way == 2:
        start = 512 * (place // 512)
        content[start:start] = content[start : start + 512 * rng.randrange(1, 4)]
    else:
        del content[place:]


def mutants(folder: Path, count: int) -> Iterator[tuple[int, bytes]]:
    whole = seeds(folder)
    for number in range(count):
        rng = random.Random(number)
        content = bytearray(rng.choice(whole))
        format_: Callable[..., None] = alter_zip if content.startswith(b"PK") else alter_tar
        for _ in range(rng.choice([1, 1, 2, 4])):
            if content:
                rng.choice([format_, format_, alter_anywhere])(content, rng)
        packed = not content.startswith(b"PK") and rng.random() < 0.3
        yield number, gzip.compress(content) if packed else bytes(content)


def unpack(archive: Path, root: Path) -> str:
    """The error of the archive, on one line; "" if it is unpacked. Any other exception is a fault."""
    try:
        preparation.prepare("folder", [archive], root)
    except RetrievalError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_archive_with_made_up_sizes_neither_hangs_nor_crashes_nor_fills_the_disk(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(archives, "SMALL", BOUND)
    monkeypatch.setattr(archives, "GROWTH", 1)
    written: list[int] = []
    in_one_piece = preparation.folder_in_one_piece

    @contextlib.contextmanager
    def measured(*args, **options):
        with in_one_piece(*args, **options) as folder:
            try:
                yield folder
            finally:
                paths = list(folder.rglob("*"))
                written.append(sum(path.stat().st_size if path.is_file() else 4096 for path in paths))
            raise DatasetError("unpacked")  # saves the time that the disk takes to keep it

    monkeypatch.setattr(preparation, "folder_in_one_piece", measured)
    (tmp_path / "seeds").mkdir()
    (tmp_path / "out").mkdir()
    outcomes = []
    for number, content in mutants(tmp_path / "seeds", 600):
        archive = tmp_path / "a.tar"
        archive.write_bytes(content)
        line = unpack(archive, tmp_path / "out" / "data")
        assert "\n" not in line, number
        assert len(line) < 600, number
        assert line == "unpacked" or str(archive) in line, (number, line)
        assert not list((tmp_path / "out").iterdir()), number
        outcomes.append(line == "unpacked")
    assert len(written) == 600
    assert max(written) <= BOUND
    assert 30 < sum(outcomes) < 500
