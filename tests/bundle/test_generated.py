"""Bundles as written and as generated: current, short, little in common, and overlays that commute."""

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from parsed_once import Parser

from medseg.bundle import library
from medseg.bundle.description import Description, DescriptionError
from medseg.bundle.generate import build, outdated
from medseg.bundle.overlays import OverlayError, clashes, record, refuse_clashes
from medseg.bundle.source import read_source, shared
from medseg.errors import MedsegError

ROOT = Path(__file__).parents[2]
BUNDLES = [ROOT / "bundles" / name for name in library.names()]
MOST_LINES, MOST_SHARED = 45, 15


def written(bundle: Path) -> list[str]:
    lines = [line.strip() for line in (bundle / "bundle.yaml").read_text().splitlines()]
    return [line for line in lines if line]


def test_every_folder_is_a_bundle() -> None:
    assert len(BUNDLES) == 11
    assert [path.name for path in BUNDLES] == sorted(path.name for path in (ROOT / "bundles").iterdir())


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_generated_files_are_current(bundle: Path) -> None:
    assert outdated(read_source(bundle)) == [], f"medseg bundle build {bundle.name}"


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_little_is_written_by_hand(bundle: Path) -> None:
    assert len(written(bundle)) <= MOST_LINES
    by_hand = {path for path in bundle.rglob("*.yaml") if not path.read_text().startswith("# Generated")}
    assert by_hand == {bundle / "bundle.yaml"}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(BUNDLES, 2)), ids=lambda path: path.name)
def test_no_two_share_much(one: Path, other: Path) -> None:
    common = Counter(written(one)) & Counter(written(other))
    assert common.total() <= MOST_SHARED, "\n".join(common.elements())


def test_a_changed_description_is_noticed_and_built(tmp_path: Path) -> None:
    folder = library.copy("unet_drosophila", tmp_path / "mine")
    assert library.is_ours(folder)
    assert library.build(folder, check=True) == []  # though its name is new
    assert "name: mine" in (folder / "configs" / "inference.yaml").read_text()
    text = (folder / "bundle.yaml").read_text()
    (folder / "bundle.yaml").write_text(text.replace("max_epochs: 1500", "max_epochs: 7"))
    (folder / "configs" / "left_over.yaml").write_text("a: 1\n")
    assert library.build(folder, check=True) == ["configs/left_over.yaml", "configs/train.yaml"]
    assert build(folder) == [folder / "configs/left_over.yaml", folder / "configs/train.yaml"]
    assert yaml.safe_load((folder / "configs" / "train.yaml").read_text())["max_epochs"] == 7
    assert not (folder / "configs" / "left_over.yaml").exists()


# ---------------------------------------------------------------------------------------------- overlays

PAIRS = [
    (bundle, one, other)
    for bundle in BUNDLES
    for one, other in itertools.combinations(sorted(read_source(bundle).overlays), 2)
]


def merged(bundle: Path, *names: str) -> dict[str, Any]:
    parser = Parser()
    parser.read_config([str(bundle / "configs" / f"{name}.yaml") for name in ("train", *names)])
    return dict(parser.get())


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_overlays_commute_or_are_refused(bundle: Path) -> None:
    """Every pair, in both orders: the same configuration, or an error that names both."""
    pairs = [(one, other) for path, one, other in PAIRS if path == bundle]
    assert bool(pairs) == (len(read_source(bundle).overlays) > 1)
    for one, other in pairs:
        first, second = merged(bundle, one, other), merged(bundle, other, one)
        records = first["overlays"]
        assert set(records) == {one, other}
        if clashes(records[one], records[other]):
            with pytest.raises(OverlayError, match=f"overlays {min(one, other)} and {max(one, other)} both set"):
                refuse_clashes(records)
            continue
        refuse_clashes(records)
        assert {**first, "overlays": None} == {**second, "overlays": None}, (one, other)


def test_some_pairs_fit_and_some_do_not() -> None:
    refused = 0
    for bundle, one, other in PAIRS:
        records = merged(bundle, one, other)["overlays"]
        refused += bool(clashes(records[one], records[other]))
    assert 0 < refused < len(PAIRS)


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ({"a": 1}, {"b": 1}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": {"b": 1}}, {"a#c": 2}, ["a"]),
        ({"a#b#c": 1}, {"a#b": 2, "d": 1}, ["a#b"]),
        ({"ab": 1}, {"a": 2}, []),
    ],
)
def test_clashes(one: dict[str, Any], other: dict[str, Any], found: list[str]) -> None:
    assert clashes(record(one), record(other)) == found
    assert clashes(record(other), record(one)) == found


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_overlays_set_keys_that_are_there(bundle: Path) -> None:
    """An overlay's typing error would be a key that nothing reads."""
    config = merged(bundle)
    for name, changes in read_source(bundle).overlays.items():
        for key in changes:
            top = key.split("#")[0]
            assert key == "about" or top in config, f"{name}: {key}"
            if top == "model":
                value: Any = config
                for part in key.split("#"):
                    assert part in value, f"{name}: {key}"
                    value = value[part]


# ---------------------------------------------------------------------------------------------- bundle.yaml


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title: ", "titel: ", "has no key 'titel'; did you mean 'title'?"),
        ("network: {name: unet}", "network: {name: unet}\nbase: sceen", "there is no base 'sceen'; choose one of"),
        ("scheme: range", "scheme: rnge", "intensity scheme is 'rnge'; choose one of none, range"),
        ("high: 255", "hihg: 255", "has no parameter 'hihg'; it takes low, high, clip"),
        ("high: 255", "high: 0", "intensity range is 0 to 0; high must be above low"),
        ("window: [256, 256]", "window: [256]", "inference window [256] has 1 edge, the network 2 axes"),
        ("window: [256, 256]", "windw: [256, 256]", "has no 'windw'; did you mean 'window'?"),
        ("- {_target", "\t- {_target", ""),
        ("title: ", "title: 2026 #", "title is 2026; give text, quoted where YAML takes it for something else"),
        ("title: ", "name: a/b\ntitle: ", "name is 'a/b'; give letters, digits, -, _ and ."),
        ("classes: [", "classes: [no, ", "classes is [False, 'membrane', "),
        ("classes: ", "classes: [] #", "classes is []; it must not be empty"),
        ("network: {name: unet}", "network: unet", "network is 'unet'; give keys with their values"),
        ("beside_paper: pooled", "beside_paper: both", "beside_paper is 'both'; choose one of pooled, per_case"),
        ("beside_paper: pooled", "ignored: '255'", "ignored is '255'; give a whole number, or null"),
        ("beside_paper: pooled", "overlay_sets: [lfa]", "there is no overlay set 'lfa'; choose one of lfa_ablations"),
        ("beside_paper: pooled", "overlays: {a: modren}", "there is no overlay 'modren'; choose one of multi_scale, "),
        ("beside_paper: pooled", "overlays: {a: [1]}", "overlay a is [1]; give keys with their values, or the name of"),
        ("  optimizer: ", "  optimiser: ", "lacks train#optimizer"),
    ],
)
def test_a_description_that_cannot_be_used(tmp_path: Path, old: str, new: str, said: str) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(ROOT / "bundles" / "unet_drosophila", folder)
    text = (folder / "bundle.yaml").read_text()
    if old not in text:
        text, new = text + "loss: [\n", ""
        said = "is no YAML"
    (folder / "bundle.yaml").write_text(text.replace(old, new) if new else text)
    with pytest.raises(DescriptionError) as caught:
        read_source(folder)
    assert said in str(caught.value)
    assert str(folder / "bundle.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match=r"bundle\.yaml: cannot be read"):
        read_source(tmp_path)
    with pytest.raises(MedsegError, match=r"there is no run, weights or bundle 'nowhere'; .*lfa_unet_covid"):
        library.find("nowhere")
    with pytest.raises(MedsegError, match=r"no overlay 'smal'; there are .*small"):
        library.config_files(library.find("lfa_unet_drosophila"), "train", ["smal"])


def test_a_bundle_is_ours_while_nobody_changes_it(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    shutil.copytree(ROOT / "bundles" / "unet_drosophila", folder)
    assert not library.is_ours(folder)
    library.remember(folder)
    (folder / "docs" / "README.md").write_text("no code")
    assert library.is_ours(folder)
    (folder / "scripts.py").write_text("")
    assert not library.is_ours(folder)


# ---------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_metadata_says_what_the_model_is(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    source = read_source(bundle)
    inference = yaml.safe_load((bundle / "configs" / "inference.yaml").read_text())
    formats = metadata["network_data_format"]
    assert formats["inputs"]["image"]["num_channels"] == inference["network_def"]["in_channels"]
    assert list(formats["outputs"]["pred"]["channel_def"].values()) == list(source.description.classes)
    assert metadata["version"] in metadata["changelog"]


def test_tested_versions_are_the_pinned_ones() -> None:
    """The zoo's tools install exactly what ``required_packages_version`` names."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and line[0] != "#")
    tested = shared()["tested"]
    named = {**tested["packages"], "monai": tested["monai"], "torch": tested["pytorch"], "numpy": tested["numpy"]}
    import medseg

    assert named.pop("medseg") == medseg.__version__
    for package, version in named.items():
        assert pins[package] == version, package


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_a_description_survives_json(bundle: Path) -> None:
    described = read_source(bundle).description
    again = Description.of(json.loads(json.dumps(described.to_dict())))
    assert again.to_dict() == described.to_dict()
