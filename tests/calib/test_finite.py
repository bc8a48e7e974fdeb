"""A network whose activations overflow is refused by `quantize`, with the layer named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from illama_deploy.calib import collect_moments, collect_ranges, is_finite, require_finite
from illama_deploy.checkpoint import read_checkpoint
from illama_deploy.errors import CheckpointError
from illama_deploy.quant.quality import measure_sqnr, sqnr_db

from ..conftest import Cli

pytestmark = pytest.mark.slow


@pytest.fixture
def overflowing(tmp_path: Path) -> Path:
    """The embedded network with finite weights of which some are far too large: what is multiplied by how much."""
    return tmp_path / "overflowing.pth"


def _save(path: Path, **factors: float) -> Path:
    state = dict(read_checkpoint("digits").state)
    for key, factor in factors.items():
        name = key.replace("__", ".")
        state[name] = state[name] * factor
        assert is_finite(state[name])
    torch.save({"model": state}, path)
    return path


GIVEN = ("--data", "digits", "--mean", 0.3, "--std", 0.3, "--calib-images", 32)


@pytest.mark.parametrize(
    ("factors", "layer"),
    [
        ({"blocks__0__mlp__fc1__weight": 1e20, "blocks__0__mlp__fc3__weight": 1e20}, "blocks.0.mlp.fc2"),
        ({"head__weight": 3e38}, "head"),
        ({"blocks__1__attn__qkv__weight": 1e22}, "blocks.1.attn"),
    ],
    ids=["fc", "head", "qk"],
)
@pytest.mark.parametrize("format_", ["W8A8", "W4A8", "W8A8-dynamic", "W4A16", "FP8"])
def test_it_is_refused_with_the_layer(
    cli: Cli, overflowing: Path, factors: dict[str, float], layer: str, format_: str
) -> None:
    path = _save(overflowing, **factors)
    out = path.with_name("q")
    result = cli("quantize", path, *GIVEN, "--format", format_, "--out", out)
    assert result.code == 2, result.out
    assert "activations overflow" in result.err
    assert layer in result.err
    assert "of 32 images" in result.err
    assert not out.exists()


def test_some_images_are_enough() -> None:
    network = read_checkpoint("digits").build()
    images = torch.zeros(8, 1, 32, 32)
    network.patch_embed.proj.weight.data *= 100  # so that the largest number overflows in it
    images[5] = torch.finfo(torch.float32).max
    with pytest.raises(CheckpointError, match="1 of 8 images"):
        require_finite(network, images, network(images))


def test_qat_refuses_it_too(cli: Cli, overflowing: Path) -> None:
    path = _save(overflowing, head__weight=3e38)
    result = cli("qat", path, "--bits", 8, "--data", "digits", "--recipe", "qat-digits", "--out", path.with_name("qat"))
    assert result.code == 2
    assert "activations overflow" in result.err
    assert "head" in result.err


def test_ranges_of_infinite_inputs() -> None:
    """What comes out is finite again."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    with torch.no_grad():
        network[0].weight.fill_(3e38)
    with pytest.raises(CheckpointError, match="what 0 puts out"):
        collect_ranges(network, {"1": ("input",)}, [torch.full((2, 4), 10.0)])


def test_moments_that_cannot_be_squared() -> None:
    """Finite activations whose squares are not."""
    network = nn.Sequential(nn.Linear(4, 4))

    def same(x: Tensor) -> Tensor:
        return x

    with pytest.raises(CheckpointError, match=r"square of what goes into blocks\.0\.0"):
        collect_moments(network, {"0": same}, [torch.full((2, 4), 1e30)], prefix="blocks.0.")


def test_sqnr_is_a_number_whatever_comes() -> None:
    assert sqnr_db(1.0, float("nan")) == sqnr_db(1.0, float("inf")) == sqnr_db(float("nan"), 1.0) == -200
    assert sqnr_db(1e-300, 1e300) == -200
    assert sqnr_db(1e300, 1e-300) == 200
    network = read_checkpoint("digits").build()
    broken = read_checkpoint("digits").build()
    with torch.no_grad():
        broken.head.weight.mul_(3e38)  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match="what head puts out"):
        measure_sqnr(network, broken, [torch.randn(2, 1, 32, 32)])
