"""An index that is read while other processes replace it is that of one generation, never a mixture and never an error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from index import bundles

from retrieval.errors import IndexFormatError
from retrieval.files import claims, folders
from retrieval.files.manifest import FolderKind
from retrieval.index import Index
from retrieval.index.bundle import Bundle, read_bundle
from retrieval.index.manifest import MANIFEST

COUNT = 6


def write(folder: Path, generation: int) -> Bundle:
    """An index whose vectors, ids, classes and paths tell its generation."""
    vectors = np.eye(COUNT, dtype=np.float32)
    vectors = np.roll(vectors, generation, axis=1)
    return bundles.write(
        folder,
        overwrite=True,
        vectors=vectors,
        ids=np.arange(COUNT) + 100 * generation,
        labels=np.arange(COUNT) % 2,
        class_names=[f"{generation} even", f"{generation} odd"],
        paths=[f"{generation}/{i}.png" for i in range(COUNT)],
        model=None,
        images_root="/images",
        split="test",
        source={},
    )


def generation_of(bundle: Bundle) -> int:
    """The generation of a bundle, all of whose parts must be of it."""
    (generation,) = {
        int(bundle.ids[0]) // 100,
        int(bundle.vectors[0].argmax()),
        *(int(name.split()[0]) for name in bundle.class_names),
        *(int(path.split("/")[0]) for path in bundle.paths),
    }
    return generation


def test_an_index_that_is_replaced_between_two_reads_is_read_again_as_a_whole(tmp_path, monkeypatch):
    write(tmp_path / "index", 0)
    read_file, reads = FolderKind._read_file, []

    def replace_before_the_second(*arguments):
        reads.append(arguments)
        if len(reads) == 2:
            write(tmp_path / "index", 1)
        return read_file(*arguments)

    monkeypatch.setattr(FolderKind, "_read_file", replace_before_the_second)
    assert generation_of(read_bundle(tmp_path / "index")) == 1
    assert len(reads) == 4


def test_a_file_that_vanishes_with_its_generation_is_no_damage_though_the_next_one_has_the_same_manifest(
    tmp_path, monkeypatch
):
    text = write(tmp_path / "index", 0).text
    read_file, reads = FolderKind._read_file, []

    def vanish_at_first(*arguments):
        reads.append(arguments)
        if len(reads) > 1:
            return read_file(*arguments)
        write(tmp_path / "index", 0)
        (tmp_path / "index" / MANIFEST).write_bytes(text or b"")  # as within the same second
        raise IndexFormatError("vectors.npy: missing")  # it was looked up in the folder that is gone

    monkeypatch.setattr(FolderKind, "_read_file", vanish_at_first)
    assert generation_of(read_bundle(tmp_path / "index")) == 0
    assert len(reads) == 3


def test_an_index_without_a_name_for_a_moment_is_read_afterwards(tmp_path, monkeypatch):
    """Systems without an exchange of two folders rename twice."""
    folder = tmp_path / "index"
    write(folder, 0)
    found: list[int] = []
    rename = Path.rename

    def rename_slowly(path: Path, target: Path) -> Path:
        renamed = rename(path, target)
        if target.name.startswith(claims.OLD):
            assert not folder.exists()
            monkeypatch.setattr(claims, "is_locked", finish)
            found.append(generation_of(read_bundle(folder)))
        return renamed

    def finish(hidden: Path) -> bool:
        shutil.copytree(next(hidden.glob(f"{claims.NEW}*")), folder)
        monkeypatch.setattr(claims, "is_locked", lambda hidden: False)
        return True

    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", rename_slowly)
    with pytest.raises(Exception, match="Directory not empty"):  # the test was faster
        write(folder, 1)
    assert found == [1]


WRITE = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from index.test_generations import write
from retrieval.files import folders
if sys.argv[3] == "renames":
    folders._exchange = lambda one, other: False
print("ready", flush=True)
for number in range(10**9):
    write(Path(sys.argv[1]), number % 3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_searches_in_one_process_while_another_one_replaces_the_index(tmp_path, way):
    folder = tmp_path / "index"
    write(folder, 0)
    tests = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", WRITE, str(folder), str(tests), way]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().split() == [b"ready"]
            seen: set[int] = set()
            searches = 0
            while len(seen) < 3 or searches < 100:
                searches += 1
                index = Index.open(folder)
                generation = generation_of(read_bundle(folder))
                seen.add(generation)
                hits = index.search(index.vectors[2], k=COUNT)
                assert {hit.id // 100 for hit in hits} == {int(index.ids[0]) // 100}
                assert hits[0].path == index.paths[2]
                assert process.poll() is None
        finally:
            process.kill()
