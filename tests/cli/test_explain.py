import json

import numpy as np
import pytest
from PIL import Image

from medseg.bundle.description import Description
from medseg.bundle.networks import create
from medseg.bundle.record import header_of
from medseg.cli import main
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header


def save(path, name, **options):
    network = create(name, 2, 1, 5, **options)
    content = {"name": "toy", "input": {"intensity": {"scheme": "range"}}, "classes": list("abcde")}
    described = Description.of({**content, "network": network.recipe})
    save_checkpoint(write_header(network.state_dict(), header_of(described)), path)
    return path


@pytest.fixture
def weights(tmp_path):
    """Weights of a tiny DF-DAM, and an image."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    return save(tmp_path / "model.pt", "df_dam", encoder="test_resnet", channels=8)


def test_explain(weights, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["explain", str(weights), "--image", str(tmp_path / "x.png"), "--output", str(out)]
    assert main([*arguments, "--roi", "33"]) == 0
    assert capsys.readouterr().out == f"{out}/x.png: dafm_3_high, dafm_3_low, dafm_3_maps, confidence\n"
    assert main(arguments) == 2
    assert "x.png is there and is not of this model, image, region and choice of maps" in capsys.readouterr().err
    assert main([*arguments, "--roi", "33"]) == 0
    assert capsys.readouterr().out == "1 skipped: their files are there (--overwrite does them again)\n"
    (tmp_path / "y.png").write_bytes(b"no picture")
    more = ["--image", str(tmp_path / "y.png"), "--overwrite", "--json"]
    assert main([*arguments, *more, "--maps", "confidence"]) == 1
    said = capsys.readouterr()
    done = json.loads(said.out)
    assert done["written"][0]["maps"]["confidence"]["shape"] == [1, 10, 14]
    assert [failure["image"] for failure in done["failures"]] == [str(tmp_path / "y.png")]
    (error,) = said.err.splitlines()
    assert error.startswith(f"medseg: error: {tmp_path}/y.png: ")
    assert error.endswith("restore the file")


def test_explain_refuses(weights, tmp_path, capsys):
    where = ["--image", str(tmp_path / "x.png"), "--output", str(tmp_path / "out")]
    plain = save(tmp_path / "plain.pt", "unet", channels=[4, 8])
    for model, more, message in (
        (weights, ["--maps", "confidense"], "DFDAM gives no map 'confidense'; did you mean confidence?"),
        (plain, [], "UNet has no attention to show; these networks have: "),
        ("nowhere", [], "there is no run, weights or bundle 'nowhere'"),
        ("lfa_unet_drosophila", [], "lfa_unet_drosophila has no weights (model.pt); train it"),
    ):
        assert main(["explain", str(model), *where, *more]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith(f"medseg: error: {message}")
    assert not (tmp_path / "out").exists()
