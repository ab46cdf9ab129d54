"""A bundle's README names the overlays that there are, and how the bundle is used."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from docs.pages import commands

from medseg.bundle import library

ROOT = Path(__file__).parents[2]
MODES = {"train", "inference", "evaluate", "multi_gpu_train"}


# Where a network, or how it is trained, is not what the paper or its authors' code says: words that name it, by module
# and bundles, in the module's header and in each README.
FOCUS = ("focusnet_pp_isic2018", "focusnet_pp_dsb2018")
NAMED: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    ("lfa_unet", ("lfa_unet_drosophila", "lfa_unet_covid"), ("512, 256, 128 and 64", "last batch")),
    ("lfa_unet", ("lfa_unet_drosophila",), ("eq. 3",)),
    ("focusnet_pp", FOCUS, ("0.0001", "batch 4", "smoothing in the Tversky index", "by the validation loss", "255")),
    ("focusnet_pp", FOCUS, ("its own least to its own greatest value", "last batch", "means over images")),
    ("mfnet", ("mfnet_voc",), ("ReLU", "never reache", "by the batch size", "in no group", "multi-grid")),
    ("mfnet", ("mfnet_voc",), ("blur", "centre crops of 513 x 513", "1,464")),
    ("emanet", ("mfnet_voc",), ("ten times that", "weight decay")),
    ("deeplabv3_plus", ("mfnet_voc",), ("40.35", "40.45")),
    ("deeplab_largefov", ("refine_multi_scale_voc",), ("3x3 average pooling",)),
    ("multi_scale", ("refine_multi_scale_voc",), ("fc6 and fc7 included",)),
    ("multi_scale", ("refine_multi_scale_ade20k",), ("0fb1223", "32.77 / 76.47", "an inference")),
    ("psp_net", ("refine_multi_scale_ade20k",), ("512 channels", "dropout", "first layers, three 3x3 convolutions")),
    ("df_dam", ("df_dam_voc", "df_dam_cityscapes"), ("enlarged",)),
]


def readme(name: str) -> str:
    return (ROOT / "bundles" / name / "docs" / "README.md").read_text(encoding="utf-8")


def overlays(name: str) -> set[str]:
    return {path.stem for path in (ROOT / "bundles" / name / "configs").glob("*.yaml")} - MODES


@pytest.mark.parametrize("name", library.names())
def test_every_overlay_stands_in_the_table_and_no_other(name: str) -> None:
    cells = re.findall(r"^\| (`.*?) \|", readme(name), flags=re.MULTILINE)
    named = [overlay for cell in cells for overlay in re.findall(r"`([^`]+)`", cell)]
    assert sorted(named) == sorted(overlays(name))


@pytest.mark.parametrize("name", library.names())
def test_it_says_how_the_bundle_is_used(name: str) -> None:
    """Whether the commands can be typed is tested with those of all pages, in tests/docs."""
    typed = [line.split() for line in commands(readme(name))]
    assert {words[1] for words in typed if words[0] == "medseg"} >= {"train", "evaluate", "predict"}
    assert {words[2] for words in typed if words[:2] == ["medseg", "train"]} == {name}
    (monai,) = (words for words in typed if words[:4] == ["python", "-m", "monai.bundle", "run"])
    assert monai[monai.index("--config_file") + 1] == f"bundles/{name}/configs/train.yaml"


@pytest.mark.parametrize("name", library.names())
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", readme(name)):
        assert (ROOT / "bundles" / name / "docs" / target).exists(), target


@pytest.mark.parametrize(("module", "bundles", "words"), NAMED)
def test_a_deviation_stands_in_the_header_and_the_readme(
    module: str, bundles: tuple[str, ...], words: tuple[str, ...]
) -> None:
    header = import_module(f"medseg.networks.{module}").__doc__ or ""
    for place, text in {module: header, **{name: readme(name) for name in bundles}}.items():
        flat = " ".join(text.split())
        assert [each for each in words if each.lower() not in flat.lower()] == [], place
