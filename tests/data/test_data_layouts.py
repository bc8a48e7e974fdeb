"""Data as people hold it: what is understood, what is said of it, and what is refused instead of guessed."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from illama_deploy import DataError
from illama_deploy.data import Loader, Scenes, Source, data_paths, open_data, require_classes
from illama_deploy.hashing import canonical_json
from illama_deploy.names import shown
from illama_deploy.preprocessing import Preprocessing

from ..conftest import Cli

pytestmark = pytest.mark.slow

PREPROCESSING = Preprocessing(size=(8, 8), mean=(0.0,), std=(1.0,))
ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def picture(value: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8), value, np.uint8))


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    picture(value).save(buffer, "PNG")
    return buffer.getvalue()


def folders(root: Path, names: list[str] | tuple[str, ...] = ("cat", "dog"), images: int = 2, first: int = 0) -> Path:
    """Class folders; an image's pixels tell its class and number."""
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(images):
            (root / name / f"{i}.png").write_bytes(png(first + 20 * label + i))
    return root


def pixels(source: Source, **options: Any) -> list[int]:
    """Values of the images, in order."""
    options = {"classes": len(source.classes) or 2, "labels": False} | options
    return [
        round(float(image.mean()) * 255) for batch in Loader(source, PREPROCESSING, **options) for image in batch.images
    ]


def labels(source: Source) -> list[int]:
    return [sample.label for sample in source.read(range(len(source)))]


# --- folders ---------------------------------------------------------------------------------------------------------


def test_hidden_folders_and_those_of_tools_are_no_classes(tmp_path: Path) -> None:
    folders(tmp_path / "d")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / "d" / name).mkdir()
        (tmp_path / "d" / name / "x.png").write_bytes(png(99))
    source = open_data(f"folder:{tmp_path / 'd'}", role="evaluate")
    assert (source.classes, labels(source)) == (("cat", "dog"), [0, 0, 1, 1])
    assert source.notes == ("2 folders not looked into: .ipynb_checkpoints, __MACOSX",)


def test_a_hidden_folder_does_not_make_up_for_a_missing_class(cli: Cli, tmp_path: Path) -> None:
    folders(tmp_path / "d", [str(i) for i in range(9)])
    (tmp_path / "d" / ".ipynb_checkpoints").mkdir()
    code, _, err = cli("evaluate", "digits", "--data", f"folder:{tmp_path / 'd'}")
    assert code == 2
    assert "9 classes and the network 10" in err


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("Train", "Val"),
        ("train", "dev"),
        ("train", "valid"),
        ("data/train", "data/test"),
        ("train2017", "val2017"),
    ],
)
def test_splits_by_other_names(tmp_path: Path, train: str, test: str) -> None:
    folders(tmp_path / train, images=3)
    folders(tmp_path / test, images=2, first=100)
    source = open_data(f"folder:{tmp_path}", role="evaluate")
    assert (source.classes, source.split) == (("cat", "dog"), Path(test).name)
    assert pixels(source) == [100, 101, 120, 121]
    assert pixels(open_data(f"folder:{tmp_path}", role="calibrate")) == [0, 1, 2, 20, 21, 22]
    # What a manifest says opens the same images again.
    assert pixels(open_data(source.spec, source.split, role="calibrate")) == [100, 101, 120, 121]


def test_only_the_other_split_is_there(tmp_path: Path) -> None:
    folders(tmp_path / "training_set")
    with pytest.raises(DataError, match="no split folder 'test'") as error:
        open_data(f"folder:{tmp_path}", role="evaluate")
    assert "training_set" in str(error.value)
    folders(tmp_path / "other" / "val")
    with pytest.raises(DataError, match="no split folder 'train'"):
        open_data(f"folder:{tmp_path / 'other'}", role="calibrate")


def test_folders_called_like_splits_are_no_classes(tmp_path: Path) -> None:
    for name in ("seg_train", "seg_test"):
        folders(tmp_path / name)
    with pytest.raises(DataError, match="called like splits: seg_test, seg_train"):
        open_data(f"folder:{tmp_path}", role="evaluate")
    assert len(open_data(f"folder:{tmp_path}", "seg_test", role="evaluate")) == 4


def test_folders_of_the_same_folders_are_no_classes(tmp_path: Path) -> None:
    for name in ("left", "right"):
        folders(tmp_path / name)
    with pytest.raises(DataError, match=r"left, right hold the same folders \(cat, dog\)"):
        open_data(f"folder:{tmp_path}", role="evaluate")
    assert len(open_data(f"folder:{tmp_path}", role="calibrate")) == 8
    assert open_data(f"folder:{tmp_path}", "right", role="evaluate").classes == ("cat", "dog")
    # Tiny ImageNet has one folder of the same name in each class.
    for name in ("cat", "dog"):
        (tmp_path / "tiny" / name / "images").mkdir(parents=True)
        (tmp_path / "tiny" / name / "images" / "0.png").write_bytes(png(1))
    assert open_data(f"folder:{tmp_path / 'tiny'}", role="evaluate").classes == ("cat", "dog")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    folders(tmp_path, ["bus", "car", "train"])
    for role in ("evaluate", "calibrate"):
        assert open_data(f"folder:{tmp_path}", role=role).classes == ("bus", "car", "train")  # type: ignore[arg-type]


def test_files_left_out_are_counted(tmp_path: Path) -> None:
    root = folders(tmp_path / "d", ["a", "b", "c", "d"])
    for name, suffix in (("a", ".gif"), ("b", ".jfif")):
        for path in list((root / name).iterdir()):
            Image.open(path).save(path.with_suffix(suffix), "GIF" if suffix == ".gif" else "JPEG")
            path.unlink()
    if ".avif" in Image.registered_extensions():
        for path in list((root / "c").iterdir()):
            Image.open(path).convert("RGB").save(path.with_suffix(".avif"))
            path.unlink()
    for path in list((root / "d").iterdir()):
        path.rename(path.with_suffix(""))
    (root / "notes.txt").write_text("x")
    (root / "top.png").write_bytes(png(1))
    source = open_data(f"folder:{root}", role="evaluate")
    assert labels(source) == [0, 0, 1, 1, 2, 2]
    assert set(source.notes) == {
        "3 files left out: no ending 2, .txt 1",
        "1 image outside of the class folders left out",
        "1 of 4 classes without an image: d",
    }
    assert len(pixels(source)) == 6


@pytest.mark.parametrize("command", ["evaluate", "quantize"])
def test_files_left_out_are_said(cli: Cli, tmp_path: Path, command: str) -> None:
    root = folders(tmp_path / "d", [str(i) for i in range(10)])
    (root / "3" / "more").write_bytes(b"")
    out = ("--json" if command == "evaluate" else "--out", tmp_path / "out")
    code, said, err = cli(command, "digits", "--data", f"folder:{root}", *out)
    assert code == 0, err
    assert "data: 1 file left out: no ending 1" in said
    written = json.loads((tmp_path / "out" / ("manifest.json" if command == "quantize" else "")).read_text())
    assert written["data"]["notes"] == ["1 file left out: no ending 1"]


def test_links_do_not_count_images_twice(tmp_path: Path) -> None:
    root = folders(tmp_path / "d")
    (root / "cat" / "again").symlink_to(root)
    (root / "also").symlink_to(root / "dog")
    (root / "cat" / "9.png").symlink_to(root / "cat" / "0.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0.png").write_bytes(png(77))
    (root / "zoo").symlink_to(tmp_path / "elsewhere")
    source = open_data(f"folder:{root}", role="evaluate")
    assert source.classes == ("also", "cat", "dog", "zoo")
    assert [Path(sample.name).parent.name for sample in source.read(range(len(source)))] == [
        *("cat", "cat", "cat", "dog", "dog", "zoo")
    ]
    assert "2 links left out, to folders that are read anyway: also, cat/again" in source.notes
    assert "1 image counted again: links to others that are read, too" in source.notes


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    root = folders(tmp_path / "d")
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "dog" / "zero.png").symlink_to("/dev/zero")
    source = open_data(f"folder:{root}", role="evaluate")
    assert (len(source), source.notes) == (4, ("2 files left out: no regular file 2",))
    for name in ("pipe.parquet", "pipe.txt", "classes.txt"):
        os.mkfifo(tmp_path / name)
    for spec in (f"parquet:{tmp_path / 'pipe.parquet'}", f"list:{tmp_path / 'pipe.txt'}", f"list:{tmp_path / 'd'}"):
        with pytest.raises(DataError):
            open_data(spec, role="calibrate")
    with pytest.raises(DataError, match="no regular file"):
        open_data(f"folder:{root}?classes={tmp_path / 'classes.txt'}", role="calibrate")


def test_the_whole_file_system_is_no_data() -> None:
    with pytest.raises(DataError, match="whole file system"):
        open_data("folder:/", role="calibrate")


def test_a_folder_of_other_things_is_left_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("illama_deploy.data.scan.TOO_MANY", 20)
    root = folders(tmp_path / "d", images=1)
    for i in range(30):
        (root / "cat" / f"{i}.xml").write_bytes(b"")
    with pytest.raises(DataError, match="no folder of images: 30 files"):
        open_data(f"folder:{root}", role="calibrate")


# --- images without labels -------------------------------------------------------------------------------------------


def flat(root: Path) -> str:
    root.mkdir()
    for i in range(3):
        (root / f"{i}.png").write_bytes(png(i))
    return f"folder:{root}"


def nested(root: Path) -> str:
    for i, inner in enumerate(("2019/may", "2019/june", "2020")):
        (root / inner).mkdir(parents=True, exist_ok=True)
        (root / inner / f"{i}.png").write_bytes(png(i))
    return f"folder:{root}"


def listed(root: Path) -> str:
    flat(root)
    (root / "list.txt").write_text("2.png\n\n./0.png\n" + f"{root / '1.png'}\r\n2.png\n")
    return f"list:{root / 'list.txt'}"


def column(root: Path) -> str:
    root.mkdir()
    pq.write_table(pa.table({"photo": [png(i) for i in range(3)], "caption": [["x"]] * 3}), root / "x.parquet")
    return f"parquet:{root / 'x.parquet'}"


@pytest.mark.parametrize(("make", "values"), [(flat, [0, 1, 2]), (listed, [2, 0, 1]), (column, [0, 1, 2])])
def test_images_without_labels_calibrate_and_nothing_else(
    tmp_path: Path, make: Callable[[Path], str], values: list[int]
) -> None:
    spec = make(tmp_path / "images")
    source = open_data(spec, role="calibrate")
    assert (pixels(source, classes=10), source.split) in ((values, ""), (values, "x"))
    assert pixels(open_data(spec, source.split, role="calibrate"), classes=10) == values
    with pytest.raises(DataError, match="needs labels"):
        Loader(source, PREPROCESSING, classes=10)
    for role in ("evaluate", "train"):
        with pytest.raises(DataError, match="needs labels"):
            open_data(spec, role=role)  # type: ignore[arg-type]


def test_nested_folders_calibrate(tmp_path: Path) -> None:
    source = open_data(nested(tmp_path / "images"), role="calibrate")
    assert pixels(source, classes=10) == [1, 0, 2]
    with pytest.raises(DataError, match="2 classes and the network 10"):
        Loader(source, PREPROCESSING, classes=10)


def test_quantize_takes_a_flat_folder_and_a_subset_of_the_classes(cli: Cli, tmp_path: Path) -> None:
    flat(tmp_path / "images")
    code, out, err = cli("quantize", "--data", tmp_path / "images", "--out", tmp_path / "a")
    assert code == 0, err
    assert "from 3 images" in out
    # Every later step opens them again.
    code, out, err = cli("inspect", tmp_path / "a", "--images", 2)
    assert code == 0, err
    folders(tmp_path / "some", ["3", "7"])
    code, out, err = cli("quantize", "--data", f"folder:{tmp_path / 'some'}", "--out", tmp_path / "b")
    assert code == 0, err
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["classes"] == [str(i) for i in range(10)]


def test_list_says_what_is_missing_and_what_is_there_twice(tmp_path: Path) -> None:
    spec = listed(tmp_path / "images")
    assert open_data(spec, role="calibrate").notes == ("1 line left out that list an image again",)
    (tmp_path / "images" / "list.txt").write_text("0.png\nsub/gone.png\n")
    with pytest.raises(DataError, match="1 of the 2 files that it lists are not there") as error:
        open_data(spec, role="calibrate")
    assert "sub/gone.png" in str(error.value)


# --- spec ------------------------------------------------------------------------------------------------------------


def test_a_path_alone_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path / "f")
    listed(tmp_path / "l")
    column(tmp_path / "p")
    for inner in ("images/train", "annotations/train"):
        (tmp_path / "s" / inner).mkdir(parents=True)
    picture(0).save(tmp_path / "s" / "annotations" / "train" / "a.png")
    picture(1).save(tmp_path / "s" / "images" / "train" / "a.png")
    monkeypatch.chdir(tmp_path)
    for path, spec in {
        "./f": "folder:./f",
        "l/list.txt": "list:l/list.txt",
        "p/x.parquet": "parquet:p/x.parquet",
        "s": "segmentation:s",
        "f?classes=ignore": "folder:f?classes=ignore",
    }.items():
        assert open_data(path, role="calibrate").spec == spec
    assert open_data(Path("f"), role="evaluate").spec == "folder:f"
    with pytest.raises(DataError, match="as parquet, or as a list") as error:
        open_data("f/cat/0.png", role="calibrate")
    assert "`data='list:f/cat/0.png'`" in str(error.value)
    with pytest.raises(DataError, match=r"no data spec './gone'"):
        open_data("./gone", role="calibrate")
    with pytest.raises(DataError, match="does not take 'labels'"):
        open_data("folder:f?labels=x", role="calibrate")


def test_paths_that_a_spec_names(tmp_path: Path) -> None:
    root = folders(tmp_path / "f")
    names = tmp_path / "n.txt"
    names.write_text("cat\ndog\n")
    assert data_paths(f"folder:{root}?classes={names}") == [root, names]
    assert data_paths(str(root)) == [root]
    assert data_paths(f"timm:folder?root={root}") == [root]
    assert data_paths("digits") == data_paths(None) == data_paths("folder:gone") == []


@pytest.mark.parametrize("name", ["wds/x", "WDS/x", "hfds/mnist", "hfids/mnist", "tfds/mnist", "other/x"])
def test_timm_reads_from_this_machine_alone(tmp_path: Path, name: str) -> None:
    root = folders(tmp_path / "f")
    for place in (str(root), f"pipe:touch {tmp_path / 'ran'};"):
        with pytest.raises(DataError):
            open_data(f"timm:{name}?root={place}", role="calibrate")
    assert not (tmp_path / "ran").exists()


def test_timm_tells_its_classes(tmp_path: Path) -> None:
    folders(tmp_path / "validation", ["1", "2", "10"])
    assert open_data(f"timm:folder?root={tmp_path}", role="evaluate").classes == ("1", "2", "10")


# --- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (ENGLISH, ("not those of the network", "0      0        eight")),
        ([str(i) for i in range(1, 11)], ("not those of the network", "0      0        1", "1      1        10")),
    ],
)
def test_other_class_names_are_an_error(cli: Cli, tmp_path: Path, names: list[str], says: tuple[str, ...]) -> None:
    spec = f"folder:{folders(tmp_path / 'd', names)}"
    for command in ("evaluate", "quantize"):
        code, _, err = cli(command, "digits", "--data", spec)
        assert code == 2, err
        for text in (*says, "classes=ignore"):
            assert text in err
    code, _, err = cli("evaluate", "digits", "--data", f"{spec}?classes=ignore")
    assert code == 0, err


def test_another_order_is_an_error(tmp_path: Path) -> None:
    source = open_data(f"folder:{folders(tmp_path / 'd', ['10', '9'])}", role="evaluate")
    require_classes(source, 2, ["10", "9"])
    require_classes(open_data(f"folder:{tmp_path / 'd'}?classes=ignore", role="evaluate"), 2, ["9", "10"])
    with pytest.raises(DataError, match="in another order"):
        require_classes(source, 2, ["9", "10"])
    with pytest.raises(DataError, match="in another order"):
        require_classes(source, 2, ["9", "10"], labels=False)
    require_classes(source, 3, ["8", "9", "10"], labels=False)


def test_names_are_compared_without_case_and_underscores(tmp_path: Path) -> None:
    source = open_data(f"folder:{folders(tmp_path / 'd', ['Traffic_Light', 'bus'])}", role="evaluate")
    require_classes(source, 2, ["traffic light", "Bus"])


def test_order_of_numbers_is_said_and_a_file_settles_it(tmp_path: Path) -> None:
    root = folders(tmp_path / "d", ["1", "2", "10"])
    source = open_data(f"folder:{root}", role="evaluate")
    assert source.classes == ("1", "10", "2")
    assert any("alphabetical order" in note and "1 is '10'" in note for note in source.notes)
    (root / "classes.txt").write_text("1\n2\n10\n11\n")
    source = open_data(f"folder:{root}", role="evaluate")
    assert (source.classes, labels(source)) == (("1", "2", "10", "11"), [0, 0, 1, 1, 2, 2])
    assert not any("alphabetical" in note for note in source.notes)
    (root / "classes.txt").write_text("1\n2\n")
    with pytest.raises(DataError, match="does not name: 10"):
        open_data(f"folder:{root}", role="evaluate")
    assert open_data(f"folder:{root}?classes=ignore", role="evaluate").classes == ("1", "10", "2")


def test_artifacts_of_other_classes_are_not_compared(cli: Cli, tmp_path: Path) -> None:
    import torch

    from illama_deploy.checkpoint import read_checkpoint

    digits = read_checkpoint("digits")
    about = {"preprocessing": digits.preprocessing.to_dict(), "classes": ENGLISH}
    torch.save({"model": dict(digits.state), "illama_deploy": about}, tmp_path / "english.pth")
    code, _, err = cli("evaluate", "digits", "--reference", tmp_path / "english.pth", "--data", "digits")
    assert code == 2
    assert "zero" in err
    assert "one checkpoint" in err


def test_class_names_come_from_the_data(tmp_path: Path, cli: Cli) -> None:
    import torch

    from illama_deploy.checkpoint import read_checkpoint

    torch.save({"model": dict(read_checkpoint("digits").state)}, tmp_path / "plain.pth")
    spec = f"folder:{folders(tmp_path / 'd', ENGLISH)}"
    options = ("--data", spec, "--mean", 0.3, "--std", 0.3, "--out", tmp_path / "q")
    code, out, err = cli("quantize", tmp_path / "plain.pth", *options)
    assert code == 0, err
    assert json.loads((tmp_path / "q" / "manifest.json").read_text())["classes"] == sorted(ENGLISH)
    assert "the classes' names are the data's" in out
    code, _, err = cli("evaluate", tmp_path / "q", "--data", "digits")
    assert code == 2
    assert "not those of the network" in err


# --- parquet ---------------------------------------------------------------------------------------------------------

Y = [0, 1, 1, 0]
IMAGES = [{"bytes": png(i), "path": None} for i in range(4)]


@pytest.mark.parametrize(
    ("columns", "query"),
    [
        ({"idx": [5, 6, 7, 8], "image": IMAGES, "label": Y}, ""),
        ({"fold": [1, 0, 1, 0], "image": IMAGES, "target": Y}, ""),
        ({"writer": [1, 0, 1, 0], "image": IMAGES, "digit": Y}, "?label=digit"),
        ({"image": IMAGES, "label": ["a", "b", "b", "a"], "height": [8] * 4}, ""),
        ({"md5": [b"x" * 16] * 4, "image": IMAGES, "label": Y}, ""),
        ({"thumb": IMAGES[::-1], "photograph": IMAGES, "label": Y}, "?image=photograph"),
        ({"image": IMAGES, "label": pa.array(np.array(Y, np.uint8)).dictionary_encode()}, ""),
        ({"image": IMAGES, "label": pa.array(["a", "b", "b", "a"]).dictionary_encode()}, ""),
        ({"image": IMAGES, "label": [0.0, 1.0, 1.0, 0.0]}, ""),
        ({"image": IMAGES, "label": [False, True, True, False]}, ""),
        ({"image": IMAGES, "digit": Y}, ""),
    ],
)
def test_columns_of_parquet(tmp_path: Path, columns: dict[str, Any], query: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    source = open_data(f"parquet:{tmp_path / 'x.parquet'}{query}", role="evaluate")
    assert labels(source) == Y
    assert pixels(source) == [0, 1, 2, 3]
    if list(columns) == ["image", "digit"]:
        assert source.notes == ("labels are those of the column 'digit', the only one of whole numbers",)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"writer": [1, 0, 1, 0], "image": IMAGES, "digit": Y}, "which of its columns has them is not said"),
        ({"image": IMAGES, "label": [[0], [1], [1], [0]]}, "'label' holds no numbers"),
        ({"image": IMAGES, "label": [b"a", b"b", b"b", b"a"]}, "'label' holds no numbers"),
        ({"image": IMAGES, "caption": ["a", "b", "c", "d"]}, "caption (string)"),
    ],
)
def test_labels_of_parquet_that_are_not_known(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="needs labels") as error:
        open_data(f"parquet:{tmp_path / 'x.parquet'}", role="evaluate")
    assert says in str(error.value)
    assert len(pixels(open_data(f"parquet:{tmp_path / 'x.parquet'}", role="calibrate"))) == 4


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"image": [[cell] for cell in IMAGES], "label": Y}, "image (list"),
        ({"a": IMAGES, "b": IMAGES, "label": Y}, "Which of a, b has the images"),
    ],
)
def test_images_of_parquet_that_are_not_known(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError) as error:
        open_data(f"parquet:{tmp_path / 'x.parquet'}", role="calibrate")
    assert says in str(error.value)


def test_rows_without_label_or_image(tmp_path: Path) -> None:
    cells = [*IMAGES[:3], {"bytes": None, "path": "/etc/passwd"}]
    pq.write_table(pa.table({"image": cells, "label": [0, 1, None, 0]}), tmp_path / "x.parquet")
    source = open_data(f"parquet:{tmp_path / 'x.parquet'}", role="evaluate")
    with pytest.raises(DataError, match="no label") as error:
        list(Loader(source, PREPROCESSING, classes=2))
    assert "row 2" in str(error.value)
    with pytest.raises(DataError, match="not read") as error:
        list(Loader(source, PREPROCESSING, classes=2, labels=False))
    assert "row 3" in str(error.value)


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    def shard(name: str) -> Path:
        pq.write_table(pa.table({"image": IMAGES, "label": Y}), tmp_path / name)
        return tmp_path / name

    first = shard("train-00000-of-00003.parquet")
    shard("train-00002-of-00003.parquet")
    with pytest.raises(DataError, match="1 of 3 shards are missing: 00001"):
        open_data(f"parquet:{tmp_path}", role="train")
    source = open_data(f"parquet:{first}", role="train")
    assert source.notes == ("one of 3 shards is read, train-00000-of-00003.parquet",)
    shard("train-00001-of-00003.parquet")
    assert len(open_data(f"parquet:{tmp_path}", role="train")) == 12
    shard("train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="not of one series"):
        open_data(f"parquet:{tmp_path}", role="train")


def test_parquet_without_split_names(tmp_path: Path) -> None:
    for i in range(2):
        pq.write_table(pa.table({"image": IMAGES[2 * i : 2 * i + 2], "label": [0, 1]}), tmp_path / f"part-{i}.parquet")
    source = open_data(str(tmp_path), role="evaluate")
    assert (pixels(source), source.split) == ([0, 1, 2, 3], "")
    assert pixels(open_data(source.spec, "", role="calibrate")) == [0, 1, 2, 3]
    with pytest.raises(DataError, match="no parquet shards of split test"):
        open_data(str(tmp_path), "test", role="evaluate")


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_that_cannot_be_printed_are_escaped() -> None:
    name = os.fsdecode(b"gr\xfc\xdfe\n\x1b[31m")
    assert shown(name) == "gr\\xfc\\xdfe\\n\\x1b[31m"
    assert shown("größe × 1\u202e") == "größe × 1\\u202e"
    assert str(DataError("Broken.", where=name)).splitlines()[1] == "  where: gr\\xfc\\xdfe\\n\\x1b[31m"
    assert json.loads(canonical_json({"name": name}))["name"] == "gr\\xfc\\xdfe\n\x1b[31m"
    assert canonical_json({"name": "größe"}) == '{\n "name": "größe"\n}\n'


def test_names_that_are_not_utf8_go_through(cli: Cli, tmp_path: Path) -> None:
    root = folders(tmp_path / "d", [str(i) for i in range(10)])
    odd = os.fsencode(root) + b"/3/gr\xfc\xdfe\n.png"
    Path(os.fsdecode(odd)).write_bytes(b"no image")
    code, out, err = cli("evaluate", "digits", "--data", f"folder:{root}")
    assert code == 2
    assert "3/gr\\xfc\\xdfe\\n.png" in err
    for command, option in (("evaluate", "--json"), ("quantize", "--out")):
        code, out, err = cli(command, "digits", "--data", f"folder:{root}", "--skip-broken", option, tmp_path / command)
        assert code == 0, err
        assert "3/gr\\xfc\\xdfe\\n.png" in out
    assert json.loads((tmp_path / "evaluate").read_text())["skipped"][0].endswith("3/gr\\xfc\\xdfe\\n.png")
    moved = os.fsdecode(os.fsencode(tmp_path) + b"/d\xe4")
    root.rename(moved)
    code, _, err = cli(
        "evaluate", "digits", "--data", f"folder:{moved}", "--skip-broken", "--json", tmp_path / "moved.json"
    )
    assert code == 0, err


# --- what images may do ----------------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def raw_png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def many_scans() -> bytes:
    data = encoded(Image.new("L", (64, 64), 9), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 60 + data[-2:]


SQUARE = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
BROKEN = {
    "garbage": b"no image",
    "empty": b"",
    "bomb": raw_png(100_000, 100_000, b""),
    "half a bomb": raw_png(9_500, 9_500, b""),
    "a line": raw_png(60_000, 1, bytes(60_001)),
    "many scans": many_scans(),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    "floats": encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"),
    "32 bits": encoded(Image.fromarray(np.full((8, 8), 2**20, np.int32)), "TIFF"),
    "cut": png(3)[:40],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_images_are_named_or_left_out(tmp_path: Path, kind: str) -> None:
    root = folders(tmp_path / "d")
    (root / "cat" / "0.png").write_bytes(BROKEN[kind])
    source = open_data(f"folder:{root}", role="evaluate")
    with pytest.raises(DataError, match="cannot be decoded") as error:
        list(Loader(source, PREPROCESSING, classes=2))
    assert "cat/0.png" in str(error.value)
    loader = Loader(source, PREPROCESSING, classes=2, skip_broken=True)
    assert sum(len(batch.labels) for batch in loader) == 3
    assert loader.skipped == [str(root / "cat" / "0.png")]
    pq.write_table(pa.table({"image": [BROKEN[kind], png(1)], "label": [0, 1]}), tmp_path / "x.parquet")
    loader = Loader(
        open_data(f"parquet:{tmp_path / 'x.parquet'}", role="evaluate"), PREPROCESSING, classes=2, skip_broken=True
    )
    assert (sum(len(batch.labels) for batch in loader), loader.skipped) == (1, ["x.parquet row 0"])


@pytest.mark.parametrize(
    "kind", [MemoryError, OverflowError, RuntimeError, EOFError, struct.error, zlib.error, IndexError]
)
def test_whatever_a_decoder_raises_is_a_broken_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise kind("two\nlines")

    source = open_data(f"folder:{folders(tmp_path / 'd')}", role="evaluate")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=r"cannot be decoded \(two\)"):
        list(Loader(source, PREPROCESSING, classes=2))
    with pytest.raises(DataError, match="No image could be decoded"):
        list(Loader(source, PREPROCESSING, classes=2, skip_broken=True))


def test_a_fault_of_the_transform_is_no_broken_image(tmp_path: Path) -> None:
    source = open_data(f"folder:{folders(tmp_path / 'd')}", role="evaluate")
    loader = Loader(source, PREPROCESSING, classes=2, skip_broken=True)

    def fail(image: Image.Image) -> None:
        raise ValueError("ours")

    with pytest.raises(DataError, match=r"was decoded .* but not resized \(ours\)"):
        loader.decode(source.at(0), fail)
    assert loader.skipped == []


def test_pixels_of_16_bits_are_scaled_and_counted(tmp_path: Path) -> None:
    root = folders(tmp_path / "d", images=1)
    deep = Image.fromarray(np.full((8, 8), 257 * 100, np.uint16))
    deep.save(root / "cat" / "1.png")
    deep.save(root / "cat" / "2.tif")
    frames = [picture(i) for i in (50, 90)]
    frames[0].save(root / "dog" / "1.gif", save_all=True, append_images=frames[1:])
    source = open_data(f"folder:{root}", role="evaluate")
    assert pixels(source) == [0, 100, 100, 20, 50]
    loader = Loader(source, PREPROCESSING, classes=2)
    for _ in range(2):  # counted for one pass
        list(loader)
        assert loader.notes == [
            "the classes' names are the data's",
            "1 image: only the first of several frames was read",
            "2 images: pixels of 16 bits were scaled to 8",
        ]


def test_broken_masks_are_left_out_with_their_images(tmp_path: Path) -> None:
    for inner in ("images", "annotations"):
        (tmp_path / inner / "test_set").mkdir(parents=True)
    (tmp_path / "classes.json").write_text('{"classes": ["sky", "road"], "ignore_index": 2}')
    for i in range(2):
        picture(9).save(tmp_path / "images" / "test_set" / f"{i}.png")
        picture(i).save(tmp_path / "annotations" / "test_set" / f"{i}.png")
    (tmp_path / "annotations" / "test_set" / "1.png").write_bytes(b"no image")
    source = open_data(f"segmentation:{tmp_path}", role="evaluate")
    with pytest.raises(DataError, match="mask cannot be decoded"):
        list(Loader(source, PREPROCESSING, classes=2))
    for kind in (Loader, Scenes):
        loader = kind(source, PREPROCESSING, classes=2, skip_broken=True)
        assert len(list(loader.scenes() if isinstance(loader, Scenes) else loader)) == 1
        assert [Path(name).name for name in loader.skipped] == ["1.png"]


# --- what parquet may do ---------------------------------------------------------------------------------------------


def test_parquet_that_would_unfold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.parquet"
    monkeypatch.setattr("illama_deploy.data.parquet.FREE_BYTES", 2**20)
    table = pa.table({"image": pa.array([bytes(1_000_000)] * 3), "label": [0] * 3})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match="would unfold to 3"):
        open_data(f"parquet:{path}", role="calibrate")
    pq.write_table(pa.table({"image": pa.array([png(1)] * 20_000), "label": [0] * 20_000}), path)
    with pytest.raises(DataError, match="row group of 20000 rows"):
        open_data(f"parquet:{path}", role="calibrate")


def test_parquet_that_is_nested_or_wide(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    kind = pa.int32()
    for _ in range(300):
        kind = pa.struct([("a", kind)])
    pq.write_table(pa.table({"deep": pa.nulls(1, kind), "image": [png(1)], "label": [0]}), path)
    with pytest.raises(DataError, match="nested"):
        open_data(f"parquet:{path}", role="calibrate")
    pq.write_table(pa.table({f"c{i}": [0] for i in range(10_001)} | {"image": [png(1)]}), path)
    with pytest.raises(DataError, match="columns"):
        open_data(f"parquet:{path}", role="calibrate")


def test_damaged_images_and_parquet_are_read_or_refused(tmp_path: Path) -> None:
    """A hundred of what `make fuzz` does at length."""
    square = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3)).astype(np.uint8))
    made = {kind: encoded(square, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "PPM")}
    for compression in ("zstd", "gzip"):
        buffer = io.BytesIO()
        pq.write_table(pa.table({"image": [made["PNG"]] * 4, "label": Y}), buffer, compression=compression)
        made[compression] = buffer.getvalue()
    ends = set()
    for seed in range(120):
        draw = random.Random(seed)
        kind = list(made)[seed % len(made)]
        data = bytearray(made[kind])
        for _ in range(draw.choice([1, 2, 8])):
            data[draw.randrange(min(len(data), draw.choice([100, 10**6])))] = draw.randrange(256)
        path = tmp_path / ("x.parquet" if kind in ("zstd", "gzip") else "x.png")
        path.write_bytes(data if draw.random() < 0.9 else data[: draw.randrange(len(data))])
        try:
            source = open_data(
                f"parquet:{path}" if path.suffix == ".parquet" else f"folder:{tmp_path}", role="calibrate"
            )
            list(Loader(source, PREPROCESSING, classes=2, labels=False, skip_broken=True))
            ends.add("read")
        except DataError:
            ends.add("refused")
        path.unlink()
    assert ends == {"read", "refused"}


# --- what later steps say --------------------------------------------------------------------------------------------


def test_images_that_calibrate_and_judge_are_said(cli: Cli, tmp_path: Path) -> None:
    root = folders(tmp_path / "d", [str(i) for i in range(10)])
    (root / "3" / "0.png").write_bytes(b"no image")
    code, _, err = cli("quantize", "digits", "--data", root, "--skip-broken", "--out", tmp_path / "q")
    assert code == 0, err
    # What ships does not say where it was built.
    assert str(tmp_path) not in (tmp_path / "q" / "manifest.json").read_text()
    for data in (("--data", f"folder:{root}"), ("--data", root)):
        code, out, err = cli("evaluate", tmp_path / "q", *data, "--skip-broken")
        assert code == 0, err
        assert "data: the network was calibrated on images of this data, which has no splits" in out
    code, out, err = cli("evaluate", tmp_path / "q", "--data", "digits")
    assert code == 0, err
    assert "calibrated" not in out


def test_sites_are_measured_on_a_flat_folder_and_a_single_file(tmp_path: Path) -> None:
    from illama_deploy.steps.quantize import quantize
    from illama_deploy.steps.shared.sites import describe_sites

    flat(tmp_path / "images")
    column(tmp_path / "parquet")
    for number, spec in enumerate((tmp_path / "images", tmp_path / "parquet" / "x.parquet")):
        artifact = quantize("digits", data=str(spec), out=tmp_path / str(number))
        found = describe_sites(artifact.path, 2)
        assert found["not_measured"] is None
        assert all(site["alone_db"] is not None for site in found["sites"])
