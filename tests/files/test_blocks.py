"""Checksums by blocks: those of plain hashing, for any parts; and no byte of a mapped file is used before its block is checked."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xxhash

from retrieval.files import blocks
from retrieval.files.blocks import entry_of, is_entry, write_in_blocks
from retrieval.files.mapped import BlockFile


class DamagedError(Exception):
    """A block is not that of its entry."""


def refused(key, value, expected):
    return DamagedError(key)


SLOW = {
    "sha256": lambda content: hashlib.sha256(content).hexdigest(),
    "xxh3_128": lambda content: xxhash.xxh3_128(content).hexdigest(),
}


def plain(content, block, kind="xxh3_128"):
    if len(content) <= block:
        return {"size": len(content), "sha256": SLOW["sha256"](content)}
    return {
        "size": len(content),
        "block": block,
        kind: [SLOW[kind](content[i : i + block]) for i in range(0, len(content), block)],
    }


@pytest.fixture(params=["xxh3_128", "sha256"])
def kind(request):
    """The kind of checksum: the one that is written, or that of earlier versions."""
    return request.param


@pytest.fixture
def file(tmp_path, kind):
    """A file of 10 blocks of 100 bytes, the last of which is not full."""
    content = np.random.default_rng(0).bytes(950)
    (tmp_path / "file").write_bytes(content)
    return BlockFile(tmp_path / "file", plain(content, 100, kind), refused), tmp_path / "file", content


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 950])
def test_the_checksums_of_a_file_are_those_of_its_blocks_in_whatever_parts_it_is_written(tmp_path, size):
    content = np.random.default_rng(0).bytes(size)
    assert entry_of(content, 100) == plain(content, 100)
    assert entry_of(content, None) == {"size": size, "sha256": hashlib.sha256(content).hexdigest()}
    for part in (1, 7, 100, 333, 1000):
        with (tmp_path / "file").open("wb") as opened:
            parts = (content[start : start + part] for start in range(0, size, part))
            assert write_in_blocks(opened, parts, block=100) == plain(content, 100)
        assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("first", [50, 100, 101, 199, 200, 950])
@pytest.mark.parametrize("more", [0, 1, 50, 100, 349])
def test_the_checksums_of_a_file_that_grows_are_those_of_the_whole_and_of_the_kind_that_it_has(
    tmp_path, first, more, kind
):
    content = np.random.default_rng(0).bytes(first + more)
    (tmp_path / "file").write_bytes(content[:first])
    before = content[first // 100 * 100 : first]
    with (tmp_path / "file").open("r+b") as opened:
        opened.seek(first)
        entry = plain(content[:first], 100, kind)
        if first <= 100:  # a single block has a sha256, and a list has one kind
            kind = "sha256" if first == 100 else "xxh3_128"
        longer = write_in_blocks(opened, [content[first:]], block=100, entry=entry, before=before)
    assert longer == plain(content, 100, kind)
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("position", [0, 99, 100, 555, 949])
def test_an_altered_byte_is_noticed_by_every_use_of_its_block_and_by_no_other(file, position, kind):
    mapped, path, content = file
    altered = bytearray(content)
    altered[position] ^= 4
    path.write_bytes(altered)
    number = position // 100
    with pytest.raises(DamagedError, match=f"{kind} of block {number}"):
        mapped.check()
    with pytest.raises(DamagedError):
        mapped.check(position, position + 1)
    with pytest.raises(DamagedError):
        mapped.check_rows(5, 45, np.array([0, max(0, (position - 5) // 45), 3]))
    seen: list[tuple[int, int]] = []
    bounds = ((start, start + 50) for start in range(0, 950, 50))
    with pytest.raises(DamagedError):
        seen.extend(mapped.sweep(bounds))
    assert all(stop <= 100 * number for _, stop in seen)
    for other in set(range(10)) - {number}:
        mapped.check(100 * other, min(950, 100 * other + 100))


def test_rows_that_reach_over_blocks_are_checked_in_all_of_them(file):
    mapped, path, content = file
    altered = bytearray(content)
    altered[430] ^= 1
    path.write_bytes(altered)
    mapped.check_rows(0, 100, np.array([0, 3, 5]))
    for row in (0, 1):  # bytes 150 to 430, and 430 to 710
        with pytest.raises(DamagedError):
            mapped.check_rows(150 + row, 280, np.array([row]))


def test_many_threads_may_use_a_file_at_once(file):
    mapped, _, content = file
    barrier = threading.Barrier(4)

    def use(number):
        barrier.wait()
        for start, stop in mapped.sweep((start, start + 95) for start in range(0, 950, 95)):
            assert mapped.bytes[start:stop].tobytes() == content[start:stop]
        return number

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(use, range(4))) == [0, 1, 2, 3]


def test_a_file_that_is_replaced_under_its_name_stays_the_one_that_was_opened(file, tmp_path):
    mapped, path, content = file
    (tmp_path / "other").write_bytes(bytes(950))
    (tmp_path / "other").replace(path)
    mapped.check()
    assert mapped.bytes.tobytes() == content


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"size": 1},
        {"size": -1, "sha256": ""},
        {"size": True, "sha256": ""},
        {"size": 1, "sha256": 7},
        {"size": 1, "sha256": ["a"]},
        {"size": 200, "sha256": ["a"], "block": 100},
        {"size": 200, "sha256": ["a", 1], "block": 100},
        {"size": 200, "sha256": ["a", "b"], "block": 100.0},
        {"size": 200, "sha256": "ab", "block": 100},
        {"size": 20, "sha256": ["a", "b"], "block": 10},
        {"size": 2**40, "sha256": ["a"], "block": 2**40 - 1},
        {"size": 100, "sha256": ["a"], "block": 100},
        {"size": 200, "sha256": ["a", "b"], "block": 100, "more": 1},
        {"size": 200, "sha256": ["a", "b"], "xxh3_128": ["a", "b"], "block": 100},
        {"size": 200, "crc32": ["a", "b"], "block": 100},
        {"size": 1, "xxh3_128": "a"},
    ],
)
def test_what_is_no_entry_of_a_manifest_is_told(entry):
    assert not is_entry(entry, in_blocks=True)
    for kind in SLOW:
        assert is_entry({"size": 200, kind: ["a", "b"], "block": 100}, in_blocks=True)
        assert not is_entry({"size": 200, kind: ["a", "b"], "block": 100}, in_blocks=False)


def test_the_size_of_a_block_is_a_power_of_two_in_the_range_that_is_read():
    assert blocks.SMALLEST <= blocks.BLOCK <= blocks.LARGEST
    assert blocks.BLOCK & (blocks.BLOCK - 1) == 0
