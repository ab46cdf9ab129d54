"""Series found by their tags, and which of them a rule file takes."""

import logging

import numpy as np
import pytest
from dicom_series import AXIAL, enhance, tags, write_series

from medseg.io.dicom_rules import ANY, RuleError, choose_series, read_rules, refuses_kind
from medseg.io.dicom_series import list_series
from medseg.io.images import read_image


def test_real_series_wherever_they_lie(real_data, tmp_path):
    """Two studies of crops and one brain, copied into one nested folder under names that say nothing."""
    source = real_data / "dicom_mr_hippocrop"
    files = sorted(source.rglob("*.dcm"))
    for number, path in enumerate(files):
        target = tmp_path / f"{number % 3}" / f"{number * 7919 % 1009:04d}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    (tmp_path / "note.txt").write_text("no DICOM")
    listing = list_series(tmp_path)
    assert (len(listing.series), listing.others, dict(listing.left_out)) == (3, 1, {})
    assert sorted((each.slices, each.problem) for each in listing.series) == [(22, ""), (32, ""), (35, "")]
    for each in listing.series:
        slices = each.slices_of()
        apart = next(folder for folder in source.iterdir() if len(list(folder.glob("*.dcm"))) == each.slices)
        image = read_image(apart)
        assert slices.shape == image.shape
        np.testing.assert_array_equal(slices.stack.affine, image.affine)


def test_what_is_no_slice_is_named(real_data):
    listing = list_series(real_data / "dicom_ct_dcmqi")
    assert sorted(each.slices for each in listing.series) == [3, 3, 3]
    assert {path.name for path in listing.left_out} == {"liver.dcm", "partial_overlaps.dcm", "label.seg"}
    assert set(listing.left_out.values()) == {"no image of its own (modality SEG)"}


@pytest.fixture
def mixed(tmp_path):
    """Five series in one folder: a volume, one with a gap, a coloured, a tilted and one of two slices."""
    kinds = {
        "a": {"distances": [0, 2, 4, 6]},
        "b": {"distances": [0, 2, 6, 8]},
        "c": {"distances": [0, 2, 4, 6], "turn": AXIAL, "shift": (0, -0.2679, 0)},
        "d": {"distances": [0, 5]},
    }
    for number, (name, options) in enumerate(kinds.items()):
        count = len(options["distances"])
        about = tags(SeriesInstanceUID=[f"1.2.{number}"] * count, SeriesDescription=[f"Jane Doe {name} T1"] * count)
        write_series(tmp_path / name, change=about, **options)
    enhance(tmp_path / "a", tmp_path / "e" / "mf", ["02.dcm", "01.dcm"])
    return tmp_path


def named(choice):
    taken = [each.files[0].parent.name for each in choice.taken]
    return taken, {each.files[0].parent.name: reason for each, reason in choice.refused}


def test_every_series_is_taken_or_refused_by_name(mixed, caplog):
    with caplog.at_level(logging.DEBUG):
        listing = list_series(mixed)
        taken, refused = named(choose_series(listing.series, ANY))
    # the frames joined from series a belong to it, and lie where its slices lie
    assert taken == ["d"]
    assert refused["b"].startswith(f"{mixed / 'b'}: 1 slice is missing between 03.dcm and 02.dcm")
    assert refused["c"].startswith("slices sheared by 15.0 degrees (a tilted gantry), at most 1 are taken")
    assert "lie at the same place" in refused["a"]
    assert "Jane" not in caplog.text + "".join(refused.values())
    assert [each.name for each in listing.series][-1] == f"{mixed / 'd' / '01.dcm'} and 1 more"


def rules(folder, text):
    path = folder / "rules.yaml"
    path.write_text(text)
    return read_rules(path)


@pytest.mark.parametrize(
    ("rule", "taken", "why"),
    [
        ("modality: [MR, PT]", "", "modality CT, wanted MR or PT"),
        ("modality: ct", "ad", ""),
        ("description: jane.*t1$", "ad", ""),
        ("description: flair", "", "its description does not fit 'flair'"),
        ("orientation: axial", "", "coronal slices, wanted axial"),
        ("slice_distance: [1, 3]", "a", "slices 5 mm apart, wanted 1 to 3"),
        ("slices: [3, 500]", "a", "2 slices, wanted 3 to 500"),
        ("tilt: 20", "acd", ""),
        ("colour: true", "", "its pixels are grey, colour is wanted"),
    ],
)
def test_rules(mixed, rule, taken, why):
    (mixed / "e" / "mf").unlink()
    choice = choose_series(list_series(mixed).series, rules(mixed, f"take:\n  - {rule}\n"))
    found, refused = named(choice)
    assert "".join(found) == taken
    assert len(found) + len(refused) == 4
    if why:
        assert why in refused["d"] or why in refused["a"]


def test_what_an_archive_says_may_do_before_files_are_read(tmp_path):
    """Modality and description; what is not known yet refuses nothing."""
    first = "{modality: MR, description: t1, orientation: axial, slices: [3, 9]}"
    chosen = rules(tmp_path, f"take:\n  - {first}\n  - {{modality: PT, colour: true}}\n")
    assert refuses_kind(chosen, "MR", "brain T1") == refuses_kind(chosen, "PT", "") == ""
    assert refuses_kind(chosen, "MR", "flair") == "its description does not fit 't1'"
    assert refuses_kind(chosen, "CT", "t1") == "modality CT, wanted MR"


def test_the_reason_is_that_of_the_nearest_rule(mixed):
    text = "take:\n  - modality: MR\n  - {modality: CT, slices: [3, 500]}\n  - {modality: US, slices: 1}\n"
    _, refused = named(choose_series(list_series(mixed / "d").series, rules(mixed, text.replace("slices: 1}", "}"))))
    assert refused["d"] == "2 slices, wanted 3 to 500"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("take: []", r"take is \[\]; give a list of at least one rule"),
        ("[]", "has no list 'take'; write the rules below it"),
        ("take: [x", "is no YAML"),
        ("take: " + "[" * 2000, "is no YAML"),
        ("take: [3]", "rule 1 is 3; give keys such as modality"),
        ("take: [{modalty: CT}]", "rule 1 has no key 'modalty'; did you mean 'modality'"),
        ("take: [{modality: 3}]", "rule 1, modality is 3; give one name or a list of names"),
        ("take: [{orientation: upright}]", "orientation is 'upright'; choose of axial, coronal, sagittal"),
        ("take: [{slices: [9, 3]}]", r"slices is \[9, 3\]; give the least and the most"),
        ("take: [{description: '('}]", "no regular expression"),
        ("take: [{tilt: -1}]", "tilt is -1; give degrees, at least 0"),
        ("take: [{colour: 3}]", "colour is 3; give true or false"),
    ],
)
def test_rules_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(RuleError, match=message) as error:
        rules(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "rules.yaml"))
    assert "\n" not in str(error.value)


def test_a_rule_file_that_is_not_there(tmp_path):
    with pytest.raises(RuleError, match=r"cannot be read \(No such file or directory\); name a rule file"):
        read_rules(tmp_path / "rules.yaml")
