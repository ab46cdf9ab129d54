"""A folder that names the models of an ensemble: all of them or none."""

import json
from pathlib import Path
from typing import Any

import pytest

from medseg.bundle import ensemble
from medseg.bundle.description import Description, DescriptionError
from medseg.bundle.library import BundleError, weights_file
from medseg.errors import MedsegError


def write(folder: Path, record: object, *names: str) -> Path:
    folder.mkdir()
    (folder / "ensemble.json").write_text(json.dumps(record))
    for name in names:
        (folder / name).touch()
    return folder


def test_its_models_in_their_order(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"format": 1, "members": ["b.zip", "a.zip"]}, "a.zip", "b.zip", "other.zip")
    assert ensemble.members(folder) == [folder / "b.zip", folder / "a.zip"]
    assert ensemble.members("unet_drosophila") == ["unet_drosophila"]
    with pytest.raises(BundleError, match="is an ensemble of several models; name one of them"):
        weights_file(folder)


def test_one_that_is_missing(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"format": 1, "members": ["a.zip", "b.zip"]}, "b.zip")
    with pytest.raises(MedsegError, match=r"is an ensemble of 2 models, but a\.zip is missing: fewer of them are"):
        ensemble.members(folder)


@pytest.mark.parametrize(
    "record", [[], {}, {"format": 2, "members": ["a.zip"]}, {"format": 1, "members": []},
               {"format": 1, "members": ["../a.zip"]}, {"format": 1, "members": 3}],
)  # fmt: skip
def test_a_record_that_is_none(tmp_path: Path, record: object) -> None:
    with pytest.raises(MedsegError, match="does not name the models of an ensemble; write the folder anew"):
        ensemble.members(write(tmp_path / "a", record, "a.zip"))


def test_a_folder_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(MedsegError, match="exists already; name a new folder for the ensemble"):
        ensemble.write(tmp_path, {})


def model(**given: Any) -> Description:
    content = {"name": "m", "classes": ["nothing", "low", "high"], "network": {"name": "unet", "in_channels": 1}}
    return Description.of({**content, **given})


def together(*models: Description) -> ensemble.Joined:
    return ensemble.joined({f"run{number}": each for number, each in enumerate(models)})


def test_what_members_must_share() -> None:
    """Each is refused with both members, both values and a way out."""
    first = model(input={"intensity": {"scheme": "range", "high": 255}})
    network = {"name": "unet", "in_channels": 1}
    for other, said in (
        (
            model(input={"intensity": {"scheme": "range", "high": 400}}),
            r"input intensity high 400 \(the latter has 255\)",
        ),
        (model(input={"orientation": "LPS"}), r"input orientation LPS \(the latter has RAS\)"),
        (
            model(classes=["nothing", "high", "low"]),
            r"classes nothing, high, low \(the latter has nothing, low, high\)",
        ),
        (model(network={**network, "spatial_dims": 3}), r"network spatial_dims 3 \(the latter has 2\)"),
        (model(network={**network, "in_channels": 3}), r"network in_channels 3 \(the latter has 1\)"),
        (model(network={**network, "out_channels": 1}), r"network out_channels 1 \(the latter has 3\)"),
    ):
        with pytest.raises(DescriptionError, match=rf"^run1 and run0 are no ensemble: .*{said}.*; name runs of one"):
            together(first, other)


def test_a_single_model_is_itself() -> None:
    steps = {"low": {"largest": True}}
    assert together(model(postprocess=steps)) == ensemble.Joined(model(postprocess=steps))


@pytest.mark.parametrize("name", ["name", "network", "temperature", "intensities", "usual", "scores"])
def test_what_may_differ_without_a_word(name: str) -> None:
    seen = {"low": [[0.0]], "high": [[1.0]], "values": [0.0, 1.0], "images": 9}
    usual = {"cases": 9, "unit": "px", "extent": [[8, 8], [9, 9]], "found": {}}
    values: dict[str, tuple[Any, Any]] = {
        "name": ("a", "b"),
        "network": ({"name": "unet", "channels": [8]}, {"name": "attention_unet"}),
        "temperature": (1.0, 2.5),
        "intensities": (seen, {**seen, "images": 8}),
        "usual": (usual, {**usual, "cases": 8}),
        "scores": ({}, {"volumes": {}}),
    }
    first, second = (model(**{name: value}) for value in values[name])
    found = together(first, second)
    assert (found.description, found.unlike) == (first, ())


def test_the_first_says_how_whole_images_are_predicted() -> None:
    first = model(inference={"window": [32, 32], "overlap": 0.5, "batch": 2, "mirror_axes": [-1, -2]})
    second = model(inference={"window": [64, 64], "overlap": 0.25, "batch": 8, "mirror_axes": [-1]})
    found = together(first, second)
    assert found.description.inference.window == [32, 32]
    assert found.description.inference.mirror_axes == [-1]  # of no member a mirror image that it never saw
    assert together(first, model()).description.inference.mirror_axes is None
    window = {"setting": "inference window", "members": [[32, 32], [64, 64]], "taken": [32, 32]}
    overlap = {"setting": "inference overlap", "members": [0.5, 0.25], "taken": 0.5}
    assert [each.plain() for each in found.unlike] == [window, overlap]
    assert [each.plain() for each in found.settled(["inference#window"])] == [overlap]
    assert found.settled(["inference#window", "inference#overlap"]) == ()


@pytest.mark.parametrize(
    ("steps", "taken"),
    [
        ([{"largest": True}, {"largest": True}, {"largest": True}], {"largest": True}),
        ([{"largest": True}, {}, {"largest": True}], {}),
        ([{"min_size": 30}, {"min_size": 10, "fill_holes": True}, {"min_size": 300}], {"min_size": 10}),
        ([{"largest": True, "fill_holes": True}, {"min_size": 30, "fill_holes": True}, {"fill_holes": True}],
         {"fill_holes": True}),
    ],
)  # fmt: skip
def test_what_all_members_do_to_a_class_is_done(steps: list[dict[str, Any]], taken: dict[str, Any]) -> None:
    models = [model(postprocess={"high": each} if each else {}) for each in steps]
    for some in (models, models[::-1]):  # whoever is named first
        found = together(*some)
        assert found.description.postprocess == ({"high": taken} if taken else {})
        alike = all(each == steps[0] for each in steps)
        assert [each.setting for each in found.unlike] == ([] if alike else ["postprocess high"])
        assert found.settled(["postprocess"]) == ()
    if not alike:
        plain = together(*models).unlike[0].plain()
        assert plain == {
            "setting": "postprocess high",
            "members": [each or None for each in steps],
            "taken": taken or None,
        }


def test_colours_and_codes_are_those_that_any_member_has() -> None:
    found = together(model(colours={"1": "#ff0000"}), model(colours={"1": "#00ff00", "2": "#0000ff"}))
    assert found.description.colours == {"1": "#ff0000", "2": "#0000ff"}
    assert [str(each) for each in found.unlike] == ["colours 1 #ff0000 | #00ff00 (taken: #ff0000)"]
    code = {"scheme": "SCT", "value": "10200004", "meaning": "Liver"}
    assert together(model(), model(codes={"1": code})).description.codes == {"1": code}


def test_what_they_were_trained_on_is_as_wide_as_any_says() -> None:
    def trained(most: int) -> Description:
        usual = {"cases": 8, "unit": "px", "extent": [[9, 9], [most, most]], "found": {"1": [0.1, most / 99]}}
        seen = {"low": [[0.0, 1.0]], "high": [[1.0, float(most)]], "values": [0.0, float(most)], "images": 8}
        return model(usual=usual, intensities=seen)

    for members in ([trained(10), trained(30)], [trained(30), trained(10)]):
        found = together(*members)
        assert (found.description.usual, found.description.intensities, found.unlike) == (
            trained(30).usual,
            trained(30).intensities,
            (),
        )
    assert together(trained(10), model()).description.usual == {}


def test_one_line_says_in_what_they_differ(caplog: pytest.LogCaptureFixture) -> None:
    ensemble.warn(together(model(), model(inference={"overlap": 0.5}, postprocess={"low": {"largest": True}})).unlike)
    assert [record.getMessage() for record in caplog.records] == [
        "the models of this ensemble differ, in their order: inference overlap 0.25 | 0.5 (taken: 0.25); postprocess "
        "low none | {'largest': True} (taken: none); give postprocess={...} or inference#... for all, if that is not "
        "meant"
    ]
    ensemble.warn(())
    assert len(caplog.records) == 1
