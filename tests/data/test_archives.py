"""Promises of `retrieval.data.archives` and `retrieval.data.preparation`: hostile archives leave nothing behind."""

from __future__ import annotations

import gzip
import hashlib
import os
import resource
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from data.made_archives import make, make_tar, make_zip, overlapping_zip, sparse_tar, special
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.data import archives, catalogue
from retrieval.data.preparation import prepare
from retrieval.errors import DatasetError, RetrievalError

FILES = {"images/a/1.jpg": b"one", "images/b/2.jpg": b"", "list.txt": b"three" * 1000}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_that_nothing_is_left(folder: Path, archive: Path) -> None:
    assert [path.name for path in folder.iterdir()] == [archive.name]


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.gz", "a.zip", "named wrongly.zip.jpg"])
def test_an_archive_of_each_kind_is_unpacked_whole(tmp_path: Path, name: str) -> None:
    root = tmp_path / "new" / "data"
    unpacked = prepare("folder", [make(tmp_path / name, FILES)], root)
    assert content(root) == FILES
    assert (unpacked.files, unpacked.bytes, unpacked.md5) == (3, 5003, {name: False})
    assert [path.name for path in root.parent.iterdir()] == ["data"]


def test_archives_and_lists_come_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "list_eval_partition.txt").write_text("0\n")
    first, second = make(tmp_path / "a.zip", {"img/1.jpg": b"1"}), make(tmp_path / "b.tgz", {"img/2.jpg": b"2"})
    prepare("inshop", [first, second, tmp_path / "list_eval_partition.txt"], tmp_path / "data")
    assert content(tmp_path / "data") == {"img/1.jpg": b"1", "img/2.jpg": b"2", "list_eval_partition.txt": b"0\n"}


def test_folders_come_too_and_rights_and_owners_do_not(tmp_path: Path) -> None:
    script = tarfile.TarInfo("./a/script")
    script.mode, script.uid = 0o6777, 12345
    members = [(special(".", tarfile.DIRTYPE), b""), (special("./a/empty/", tarfile.DIRTYPE), b""), (script, b"1")]
    prepare("folder", [make_tar(tmp_path / "a.tar", members)], tmp_path / "data")
    assert (tmp_path / "data" / "a" / "empty").is_dir()
    found = (tmp_path / "data" / "a" / "script").stat()
    assert found.st_uid != 12345
    assert not found.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR | stat.S_IWOTH)


NAMES = ["/etc/escaped", "../escaped", "a/../../escaped", "C:/escaped", "a\\..\\escaped", "..", "a/.."]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["a.tar", "a.tgz", "a.zip"])
def test_an_entry_that_could_leave_the_folder_is_refused_with_the_archive(tmp_path: Path, kind: str, name: str) -> None:
    archive = make(tmp_path / kind, {"first.jpg": b"1", name: b"2"})
    with pytest.raises(DatasetError, match="does not stay below the folder") as caught:
        prepare("folder", [archive], tmp_path / "data")
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)
    check_that_nothing_is_left(tmp_path, archive)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"],
)
def test_what_is_no_plain_file_or_folder_of_a_tar_is_refused(tmp_path: Path, kind: bytes) -> None:
    archive = make_tar(tmp_path / "a.tar", [("a.jpg", b"1"), (special("link", kind, "/etc/passwd"), b"")])
    with pytest.raises(DatasetError, match="'link' is a link, a device, a sparse file or of an unknown kind"):
        prepare("folder", [archive], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, archive)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_what_is_no_plain_file_or_folder_of_a_zip_is_refused(tmp_path: Path, kind: int) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (kind | 0o777) << 16
    archive = make_zip(tmp_path / "a.zip", [(link, b"/etc/passwd")])
    with pytest.raises(DatasetError, match="'link' is a link, a device, a sparse file or of an unknown kind"):
        prepare("folder", [archive], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, archive)


@pytest.mark.parametrize("size", [1 << 20, 1 << 40])
@pytest.mark.parametrize("kind", ["GNU", "0.0", "0.1", "1.0"])
def test_a_sparse_file_whose_size_the_archive_makes_up_is_refused(tmp_path: Path, kind: str, size: int) -> None:
    archive = sparse_tar(tmp_path / "a.tar", kind, size)
    with tarfile.open(archive) as made:
        assert made.getmembers()[0].issparse()
    with pytest.raises(DatasetError, match=r"'a.jpg' is a link, a device, a sparse file"):
        prepare("folder", [archive], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, archive)


@pytest.mark.parametrize("character", ["\x1b[2J", "\n", "\a", "\x9b", "\u202e", "\u2028", "\t"])
@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_a_name_that_acts_on_a_terminal_is_refused(tmp_path: Path, kind: str, character: str) -> None:
    archive = make(tmp_path / kind, {"1.jpg": b"1", f"a/b{character}.jpg": b"2"})
    with pytest.raises(DatasetError, match="has a control character in its name") as caught:
        prepare("folder", [archive], tmp_path / "data")
    assert character not in str(caught.value)
    check_that_nothing_is_left(tmp_path, archive)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_by_a_method_without_a_limit_on_memory_is_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.jpg", bytes(1000))
    with pytest.raises(DatasetError, match="another method than deflate; unpack it yourself"):
        prepare("folder", [tmp_path / "a.zip"], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_the_folders_of_an_archive_are_counted(tmp_path: Path, kind: str, monkeypatch) -> None:
    monkeypatch.setattr(archives, "SMALL", 1 << 18)
    monkeypatch.setattr(archives, "GROWTH", 1)
    files = {"/".join([str(number), *"abcdefghijklmnopqrstuvwxyz"]): b"" for number in range(10)}
    archive = make(tmp_path / kind, files)
    with pytest.raises(DatasetError, match="unpacks to more than 262,144 bytes"):
        prepare("folder", [archive], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, archive)


def test_the_overlapping_entries_of_a_zip_are_counted_each(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "SMALL", 1 << 20)
    monkeypatch.setattr(archives, "GROWTH", 1)
    archive = overlapping_zip(tmp_path / "a.zip", 1 << 18, 10)
    with pytest.raises(DatasetError, match=r"unpacks to more than|cannot be unpacked"):  # newer Pythons see the overlap
        prepare("folder", [archive], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, archive)


@pytest.mark.parametrize("name", ["a" * 300 + ".jpg", "/".join("abcdefgh" * 100), "é" * 200])
@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_a_name_too_long_for_the_disk_is_refused_in_a_short_line(tmp_path: Path, kind: str, name: str) -> None:
    archive = make(tmp_path / kind, {name: b"1"})
    with pytest.raises(DatasetError, match="has too long a name") as caught:
        prepare("folder", [archive], tmp_path / "data")
    assert len(str(caught.value)) < 400
    check_that_nothing_is_left(tmp_path, archive)


@pytest.mark.filterwarnings("ignore:Duplicate name")  # of zipfile, while it writes the archive
@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/b"], ["a/b", "a"], ["a/b", "a/b/c"]])
@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_an_entry_in_the_way_of_another_is_refused(tmp_path: Path, kind: str, names: list[str]) -> None:
    members = [(name, b"1") for name in names]
    archive = (make_zip if kind == "a.zip" else make_tar)(tmp_path / kind, members)
    with pytest.raises(DatasetError, match="occurs twice or conflicts with another entry"):
        prepare("folder", [archive], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, archive)


@pytest.mark.parametrize("kind", ["a.tar", "a.tgz", "a.zip"])
def test_an_archive_that_breaks_off_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    archive = make(tmp_path / kind, {f"{i}.jpg": bytes(range(256)) * 5 * i for i in range(4)})
    whole = archive.read_bytes()
    end = len(whole) if kind != "a.tar" else 512 * (4 + 3 + 5 + 8)  # tar fills up with zeros behind its end
    for length in {*range(1, end, 149), *range(512, end, 512), end - 1, end - 8, end - 22}:
        if 0 < length < end:
            archive.write_bytes(whole[:length])
            with pytest.raises(DatasetError, match=str(archive)) as caught:
                prepare("folder", [archive], tmp_path / "data")
            assert "\n" not in str(caught.value)
            check_that_nothing_is_left(tmp_path, archive)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1), value=st.integers(1, 255))
def test_an_altered_byte_never_gives_wrong_content(tmp_path_factory, place: float, value: int) -> None:
    folder = tmp_path_factory.mktemp("altered")
    files = {"a.jpg": bytes(range(256)), "b.jpg": b"b" * 600}
    for kind in ("a.tgz", "a.zip"):
        archive = make(folder / kind, files)
        altered = bytearray(archive.read_bytes())
        altered[int(place * (len(altered) - 1))] ^= value
        archive.write_bytes(altered)
        line = ""
        try:
            prepare("folder", [archive], folder / f"{kind}-data")
        except DatasetError as error:
            line = str(error)
        assert "\n" not in line
        # The list at the end of a .zip has no check sum of its own: it may lose a file, which verify notices.
        found = set(content(folder / f"{kind}-data").values())
        assert found <= set(files.values())
        assert line or kind == "a.zip" or len(found) == 2


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_taken_for_the_end(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.tar", {"a.jpg": b"1", "b.jpg": b"2"})
    altered = bytearray(archive.read_bytes())
    altered[1024 + 150] ^= 1  # in the check sum of the second header
    archive.write_bytes(altered)
    with pytest.raises(DatasetError, match="it is cut off"):
        prepare("folder", [archive], tmp_path / "data")


@pytest.mark.parametrize("kind", ["a.tar", "a.tgz", "a.zip"])
def test_an_archive_that_grows_beyond_all_measure_is_refused(tmp_path: Path, kind: str, monkeypatch) -> None:
    monkeypatch.setattr(archives, "SMALL", 1 << 20)
    monkeypatch.setattr(archives, "GROWTH", 1)
    bomb = {"zeros.jpg": bytes(2 << 20)} if kind != "a.tar" else {f"{i}": b"" for i in range(300)}
    archive = make(tmp_path / kind, bomb)
    with pytest.raises(DatasetError, match=r"unpacks to more than 1,048,576 bytes"):
        prepare("folder", [archive], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, archive)


def test_a_header_made_to_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    with gzip.open(tmp_path / "a.tgz", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    with pytest.raises(DatasetError, match="a header of more than 16,777,216 bytes"):
        prepare("folder", [tmp_path / "a.tgz"], tmp_path / "data")


def test_an_encrypted_archive_is_named(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"a.jpg": b"1"})
    altered = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        altered[altered.index(signature) + offset] |= 1
    archive.write_bytes(altered)
    with pytest.raises(DatasetError, match="is encrypted; unpack it yourself"):
        prepare("folder", [archive], tmp_path / "data")


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", b"Rar!\x1a\x07\x01\x00"])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.rar").write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.rar: is not a .tar, .tgz or .zip archive"):
        prepare("folder", [tmp_path / "a.rar"], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, tmp_path / "a.rar")


def test_published_md5_sums_are_checked_under_the_published_name(tmp_path: Path, monkeypatch) -> None:
    archive = make(tmp_path / "CUB_200_2011.tgz", FILES)
    with pytest.raises(DatasetError, match="the published one is 97eceeb196236b17998738112f37df78; download it again"):
        prepare("cub200", [archive], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, archive)
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    known = catalogue.Source("birds", "a page", "research", (archive.name,), {archive.name: md5})
    monkeypatch.setitem(catalogue.CATALOGUE, "cub200", known)
    assert prepare("cub200", [archive], tmp_path / "data").md5 == {archive.name: True}


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"a.jpg": b"1", "b.jpg": bytes(1 << 20)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, limits[1]))  # a write beyond it fails, as on a full disk
    try:
        with pytest.raises(RetrievalError, match=r"data: cannot be written \(.*File too large") as caught:
            prepare("folder", [archive], tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    check_that_nothing_is_left(tmp_path, archive)


def test_an_empty_folder_is_filled_and_any_other_is_kept(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", FILES)
    (tmp_path / "data").mkdir()
    prepare("folder", [archive], tmp_path / "data")
    assert content(tmp_path / "data") == FILES
    for taken in (tmp_path / "data", archive):
        with pytest.raises(DatasetError, match="exists already"):
            prepare("folder", [archive], taken)
    assert content(tmp_path / "data") == FILES


def test_what_comes_into_an_empty_folder_meanwhile_is_kept(tmp_path: Path) -> None:
    archive, root = make(tmp_path / "a.zip", FILES), tmp_path / "data"
    root.mkdir()

    def watch(entries):
        (root / "photo").write_bytes(b"years of work")
        return entries

    with pytest.raises(DatasetError, match="exists already"):
        prepare("folder", [archive], root, watch=watch)
    assert content(root) == {"photo": b"years of work"}


def test_what_cannot_be_prepared_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"missing.zip: cannot be read \(No such file"):
        prepare("folder", [tmp_path / "missing.zip"], tmp_path / "data")
    with pytest.raises(DatasetError, match="glyphs: generated in the cache folder"):
        prepare("glyphs", [tmp_path / "missing.zip"], tmp_path / "data")
    with pytest.raises(ValueError, match="did you mean folder"):
        prepare("foldr", [], tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["archive.tar", "list.csv", "CUB_200_2011.tgz"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DatasetError, match=rf"{name}: cannot be read \(it is a {kind}\); give an existing archive"):
        prepare("cub200", [path], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, path)


def test_a_negative_size_is_damage(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.tar", FILES)
    content = bytearray(archive.read_bytes())
    content[124:136] = b"\xff" * 12  # the size of the first entry
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + sum(content[156:512]) + 8 * 32)
    archive.write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        prepare("folder", [archive], tmp_path / "data")
    check_that_nothing_is_left(tmp_path, archive)
