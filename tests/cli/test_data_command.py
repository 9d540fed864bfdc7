"""`retrieval data`."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from retrieval import cli
from retrieval.data import DATASETS


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four classes of two images in the folder "photos" of the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in "abcd":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            Image.linear_gradient("L").save(tmp_path / "photos" / name / f"{i}.png")
    return Path("photos")


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.run(["data", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def expect_error(capsys: pytest.CaptureFixture[str], code: int, words: str, *arguments: str) -> None:
    """One line on stderr, nothing on stdout."""
    found, out, err = call(capsys, *arguments)
    assert (found, out) == (code, ""), err
    assert words in err
    assert err.count("\n") == 1
    assert err.startswith("error: ")


def test_list_shows_every_data_set_in_80_columns(capsys):
    code, out, err = call(capsys, "list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == sorted(DATASETS)
    assert max(map(len, out.splitlines())) <= 80
    listed = json.loads(call(capsys, "list", "--json")[1])
    assert listed["cub200"]["published"]["test"] == {"classes": 100, "images": 5924}
    assert list(listed) == sorted(DATASETS)


def test_describe_prints_the_files_their_source_and_the_next_commands(capsys):
    code, out, err = call(capsys, "describe", "cub200")
    assert (code, err) == (0, "")
    for words in (
        "root/[CUB_200_2011/]images.txt",
        "source     the authors' page",
        "terms      for research",
        "published  train        100 classes   5,864 images",
        "md5        97eceeb196236b17998738112f37df78  CUB_200_2011.tgz",
        "option     'train_classes=[1, 100]'",
        "retrieval data prepare cub200 CUB_200_2011.tgz --root DIR",
        "retrieval data verify cub200 --root DIR",
    ):
        assert words in out
    described = json.loads(call(capsys, "describe", "inshop", "--json")[1])
    assert described["published"]["gallery"] == {"classes": 3985, "images": 12612}
    assert described["archives"] == ["img.zip", "list_eval_partition.txt"]
    assert described["options"]["check_counts"] is True


def test_verify_counts_a_whole_data_set_and_writes_nothing(capsys, photos):
    code, out, err = call(
        capsys, "verify", "folder", "--root", "photos", "--processes", "1", "test_share=0.5", "seed=2"
    )
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "train          2 classes       4 images",
        "test           2 classes       4 images",
        "no faults: every image was opened; counts not compared with published ones",
    ]
    assert [path.name for path in photos.parent.resolve().iterdir()] == ["photos"]


def test_verify_counts_what_is_not_read_and_verbose_names_it(capsys, caplog, photos):
    (photos / "a" / "notes.xyz").touch()
    (photos / "a" / ".hidden").touch()
    words = ("verify", "folder", "--root", "photos", "--processes", "1")
    code, out, err = call(capsys, *words, "--quiet")
    assert (code, err) == (0, "")
    assert "not read 1 hidden ('a/.hidden')\nnot read 1 of other types (1 .xyz)\n" in out
    assert json.loads(call(capsys, *words, "--json")[1])["not_read"] == [
        "1 hidden ('a/.hidden')",
        "1 of other types (1 .xyz)",
    ]
    call(capsys, *words)
    assert "notes.xyz" not in caplog.text
    call(capsys, *words, "--verbose")
    assert caplog.messages[-2:] == [
        "photos/a/.hidden: not read: hidden",
        "photos/a/notes.xyz: not read: of other types",
    ]


def test_verify_prints_all_faults_writes_them_and_exits_with_1(capsys, photos):
    broken = [photos / "a" / "1.png", photos / "d" / "0.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:50])
    code, out, err = call(capsys, "verify", "folder", "--root", "photos")
    assert code == 1
    assert err == "error: folder: faults: 2, listed in folder-faults.txt\n"
    heading, *faults = Path("folder-faults.txt").read_text().splitlines()
    assert heading == "# faults of folder"
    assert sorted(fault.split(":")[0] for fault in faults) == [str(path) for path in broken]
    assert out.splitlines()[2:] == faults

    code, out, _ = call(capsys, "verify", "folder", "--root", "photos", "--json", "--faults", "elsewhere.txt")
    assert code == 1
    assert json.loads(out)["faults"] == Path("elsewhere.txt").read_text().splitlines()[1:] == faults
    assert json.loads(out)["splits"]["test"] == {"classes": 2, "images": 4}


def test_mended_faults_are_removed_from_the_list(capsys, photos):
    Path("folder-faults.txt").write_text("# faults of folder\nphotos/a/0.png: broken\n")
    assert call(capsys, "verify", "folder", "--root", "photos")[0] == 0
    assert Path("folder-faults.txt").read_text() == "# faults of folder\n"


def test_options_of_the_reader_are_read_as_in_a_configuration(capsys, photos):
    (photos / "list.csv").write_text(
        "path,label\n" + "".join(f"{name}/{i}.png,{name}\n" for name in "abcd" for i in range(2))
    )
    code, out, _ = call(capsys, "verify", "csv", "--root", "photos", "file=list.csv", "test_share=0.5")
    assert code == 0
    assert out.startswith("train          2 classes       4 images")
    expect_error(capsys, 2, "expected key=value", "verify", "csv", "--root", "photos", "list.csv")
    expect_error(capsys, 2, "is not valid YAML", "verify", "csv", "--root", "photos", "seed=[1")
    expect_error(capsys, 2, "train_classes is 'few'", "verify", "cub200", "--root", "photos", "train_classes=few")


def test_closed_set_split_files_are_refused_with_an_explanation(capsys, photos):
    (photos / "train_test_split.txt").write_text("1 0\n")
    words = "classes never trained on"
    expect_error(capsys, 1, words, "verify", "csv", "--root", "photos", "file=train_test_split.txt")
    code, out, _ = call(capsys, "verify", "cub200", "--root", "photos/train_test_split.txt")
    assert code == 1
    assert words in out


def test_wrong_names_and_a_missing_root_are_one_line(capsys, photos):
    for command in (["describe"], ["verify", "--root", "photos"], ["prepare", "--root", "new"]):
        archives = ["a.zip"] if command[0] == "prepare" else []
        expect_error(capsys, 2, "did you mean cub200?", command[0], "cub20", *archives, *command[1:])
    expect_error(capsys, 2, "folder needs a root", "verify", "folder")
    expect_error(capsys, 2, "did you mean test_share?", "verify", "folder", "--root", "photos", "test_shar=0.5")
    expect_error(capsys, 1, "missing: does not exist", "verify", "folder", "--root", "missing")


def test_prepare_unpacks_a_data_set_that_verify_accepts(capsys, photos):
    with tarfile.open("photos.tgz", "w:gz") as archive:
        archive.add(photos, arcname=".")
    code, out, err = call(capsys, "prepare", "folder", "photos.tgz", "--root", "data/new")
    assert (code, err) == (0, "")
    assert out.startswith("unpacked  8 files, ")
    assert "md5       photos.tgz: none published, not checked\n" in out
    assert out.endswith("next      retrieval data verify folder --root data/new\n")
    assert call(capsys, "verify", "folder", "--root", "data/new")[0] == 0
    expect_error(capsys, 1, "data/new: exists already", "prepare", "folder", "photos.tgz", "--root", "data/new")
    unpacked = json.loads(call(capsys, "prepare", "folder", "photos.tgz", "--root", "other", "--json")[1])
    assert unpacked["files"] == 8
    assert unpacked["md5_checked"] == {"photos.tgz": False}


def test_a_hostile_archive_is_one_line_and_leaves_nothing(capsys, photos):
    with tarfile.open("a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../escaped"))
    words = "a.tar: its entry '../escaped' does not stay below the folder"
    expect_error(capsys, 1, words, "prepare", "folder", "a.tar", "--root", "new")
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["a.tar", "photos"]


def test_help_shows_examples_and_imports_nothing_heavy():
    code = (
        "import sys; from retrieval import cli\n"
        "for command in ([], ['list'], ['describe'], ['verify'], ['prepare']): cli.run(['data', *command, '--help'])\n"
        "sys.exit(','.join(sorted({'torch', 'numpy', 'PIL', 'pydantic', 'tqdm'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Examples") == 5
