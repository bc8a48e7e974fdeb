"""Data specs, splits, order, streaming."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from illama_deploy import DataError
from illama_deploy.data import Loader, open_data, sample_indices
from illama_deploy.preprocessing import Preprocessing, default_preprocessing

PREPROCESSING = Preprocessing(size=(8, 8), mean=(0.0,), std=(1.0,))


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _folder(root: Path, images: int = 3) -> Path:
    for label, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for i in range(images):
            (root / name / f"{i}.png").write_bytes(_png(100 * label + i))
    return root


def _parquet(path: Path, values: list[int], row_group: int = 4) -> None:
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["even", "odd"]}}}}
    table = pa.table(
        {"image": [{"bytes": _png(v), "path": None} for v in values], "label": [v % 2 for v in values]}
    ).replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path, row_group_size=row_group)


def _pixels(source: str, split: str | None = None, **options: object) -> list[int]:
    loader = Loader(open_data(source, split, role="evaluate"), PREPROCESSING, classes=2, **options)  # type: ignore[arg-type]
    return [round(float(image.mean()) * 255) for batch in loader for image in batch.images]


def test_digits_halves_do_not_meet() -> None:
    train, test = (open_data("digits", role=role) for role in ("calibrate", "evaluate"))  # type: ignore[arg-type]
    assert (len(train), len(test), train.split, test.split) == (899, 898, "train", "test")
    seen = {np.asarray(sample.load()).tobytes() for sample in train.read(range(899))}
    assert not seen & {np.asarray(sample.load()).tobytes() for sample in test.read(range(898))}


def test_folder(tmp_path: Path) -> None:
    source = f"folder:{_folder(tmp_path / 'x')}"
    assert open_data(source, role="evaluate").classes == ("ant", "bee")
    assert _pixels(source) == [0, 1, 2, 100, 101, 102]


def test_folder_with_splits(tmp_path: Path) -> None:
    _folder(tmp_path / "train", 5)
    _folder(tmp_path / "val", 2)
    assert open_data(f"folder:{tmp_path}", role="calibrate").split == "train"
    assert len(open_data(f"folder:{tmp_path}", role="evaluate")) == 4
    assert len(open_data(f"folder:{tmp_path}", "train", role="evaluate")) == 10


def test_parquet_shards_in_order(tmp_path: Path) -> None:
    _parquet(tmp_path / "test-00000-of-00002.parquet", list(range(10)))
    _parquet(tmp_path / "test-00001-of-00002.parquet", list(range(10, 17)))
    _parquet(tmp_path / "train-00000-of-00001.parquet", [200, 201])
    assert open_data(f"parquet:{tmp_path}", role="evaluate").classes == ("even", "odd")
    assert _pixels(f"parquet:{tmp_path}") == list(range(17))
    assert _pixels(f"parquet:{tmp_path}", "train") == [200, 201]
    assert _pixels(f"parquet:{tmp_path}", indices=[0, 3, 4, 9, 10, 16]) == [0, 3, 4, 9, 10, 16]
    assert _pixels(f"parquet:{tmp_path / 'train-00000-of-00001.parquet'}") == [200, 201]


def test_timm_data_set(tmp_path: Path) -> None:
    _folder(tmp_path / "validation")
    assert _pixels(f"timm:folder?root={tmp_path}", "validation") == [0, 1, 2, 100, 101, 102]


def test_shared_cifar10(cifar_data: str) -> None:
    assert len(open_data(cifar_data, role="calibrate")) == 50_000
    source = open_data(cifar_data, role="evaluate")
    assert (len(source), source.classes[:2]) == (5000, ("airplane", "automobile"))


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batches_cover_every_image_once(batch_size: int) -> None:
    loader = Loader(open_data("digits", role="evaluate"), PREPROCESSING, classes=10, batch_size=batch_size)
    assert sum(len(batch.labels) for batch in loader) == len(loader) == 898


def test_label_outside_the_classes(tmp_path: Path) -> None:
    table = pa.table({"img": [_png(1)], "label": [7]})
    pq.write_table(table, tmp_path / "test-0.parquet")
    with pytest.raises(DataError, match="Label 7"):
        _pixels(f"parquet:{tmp_path}")


def test_sampling_is_seeded_ascending_and_without_repeats() -> None:
    one, again, other = (sample_indices(1000, 50, seed) for seed in (3, 3, 4))
    assert one == again != other
    assert one == sorted(set(one))
    assert len(one) == 50
    assert sample_indices(5, 50, 0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("side", "crop"), [(32, 1.0), (224, 0.875), (384, 1.0)])
def test_default_crop_follows_the_paper(side: int, crop: float) -> None:
    assert default_preprocessing((side, side), 3).crop == crop


def test_transform_normalises_and_converts() -> None:
    transform = Preprocessing(size=(4, 4), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).transform()
    image = transform(Image.fromarray(np.full((4, 4), 255, np.uint8)))  # grey to RGB
    torch.testing.assert_close(image, torch.full((3, 4, 4), 2.0))
