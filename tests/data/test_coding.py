"""Codes that are proposed for names, against DICOM's own dictionary as pydicom has it."""

import csv
import json
from pathlib import Path

import pytest
from pydicom.sr.codedict import codes

from medseg.data import coding
from medseg.data.coding import ABNORMAL, CodeError, propose_codes, read_codes
from medseg.data.datalist import Datalist, DatalistError

TABLE = list(csv.DictReader(Path(coding.__file__).with_name("codes.csv").read_text(encoding="utf-8").splitlines()))
# SNOMED CT's own, which DICOM's context groups lack
BEYOND = {
    "74281007",
    "110765007",
    "181674001",
    "78333006",
    "75297007",
    "244849004",
    "68455001",
    "360499006",
    "65985001",
}
RIBS = {row["value"] for row in TABLE if row["name"].startswith("rib_")}


def test_every_code_is_in_the_standard():
    known = {str(code.value): str(code.meaning) for code in _all(codes.SCT)} | {
        str(code.value): str(code.meaning) for code in _all(codes.NCIt)
    }
    for row in TABLE:
        assert len(row["value"]) <= 16
        assert len(row["meaning"]) <= 64
        if row["value"] not in BEYOND | RIBS:
            assert row["value"] in known, row["name"]
    assert len(RIBS) == 12
    for code in (coding.ANATOMY, ABNORMAL):
        assert code["value"] in known


def _all(collection):
    return [code for name in collection.dir() for code in [getattr(collection, name, None)] if code is not None]


def test_every_class_of_totalsegmentator_has_a_code():
    sides = ("left", "right")
    names = [
        *("spleen", "gallbladder", "liver", "stomach", "pancreas", "esophagus", "trachea", "thyroid_gland"),
        *("small_bowel", "duodenum", "colon", "urinary_bladder", "prostate", "sacrum", "heart", "aorta"),
        *("pulmonary_vein", "brachiocephalic_trunk", "superior_vena_cava", "inferior_vena_cava", "spinal_cord"),
        *("portal_vein_and_splenic_vein", "atrial_appendage_left", "brain", "skull", "sternum", "costal_cartilages"),
        *(f"{organ}_{side}" for organ in ("kidney", "adrenal_gland", "kidney_cyst", "humerus") for side in sides),
        *(f"{organ}_{side}" for organ in ("lung_upper_lobe", "lung_lower_lobe", "scapula", "femur") for side in sides),
        *(f"{vessel}_{side}" for vessel in ("subclavian_artery", "common_carotid_artery") for side in sides),
        *(f"{vessel}_{side}" for vessel in ("brachiocephalic_vein", "iliac_artery", "iliac_vena") for side in sides),
        *(f"gluteus_{muscle}_{side}" for muscle in ("maximus", "medius", "minimus") for side in sides),
        *(f"{part}_{side}" for part in ("clavicula", "hip", "autochthon", "iliopsoas") for side in sides),
        *(f"rib_{side}_{number}" for side in sides for number in range(1, 13)),
        *(f"vertebrae_{level}" for level in ("S1", *(f"L{n}" for n in range(1, 6)), *(f"T{n}" for n in range(1, 13)))),
        *(f"vertebrae_C{number}" for number in range(1, 8)),
        *("lung_middle_lobe_right",),
    ]
    assert len(names) == len(set(names)) == 117
    found = propose_codes(dict(enumerate(names)))
    assert [name for index, name in enumerate(names) if index not in found] == []
    told = {(found[i]["value"], str(found[i].get("modifier")), str(found[i].get("region"))) for i in found}
    assert len(told) == 117  # no two classes are one


@pytest.mark.parametrize(
    ("name", "dataset", "wanted"),
    [
        ("background", "", None),
        ("mystery", "", None),
        ("Left Kidney", "", ("64033007", "Left", None, None)),
        ("rib_right_4", "", ("25523003", "Right", None, None)),
        ("Anterior", "Task04_Hippocampus", ("5366008", "Anterior", None, None)),
        ("Anterior", "", None),
        ("cancer", "Task03_Liver", ("108369006", None, "Liver", None)),
        ("cancer", "Lung", ("108369006", None, "Lung", None)),
        ("cancer", "liver and lung", None),
        ("liver tumour", "", ("108369006", None, "Liver", None)),
        ("kidney_cyst_left", "", ("367643001", None, "Kidney", "Left")),
        ("subclavian_artery_left", "", ("36765005", "Left", None, None)),
        ("enhancing tumour", "BRATS", ("C113842", None, "Brain", None)),
        ("TZ", "Prostate", ("399384005", None, None, None)),
    ],
)
def test_names(name, dataset, wanted):
    found = propose_codes({1: name}, dataset).get(1)
    if wanted is None:
        assert found is None
        return
    region = found.get("region", {})
    place = (found["value"], found.get("modifier", {}).get("meaning"), region.get("meaning"))
    assert (*place, region.get("modifier", {}).get("meaning")) == wanted
    assert ("category" in found) == (found["value"] in ("108369006", "367643001", "C113842"))


def test_a_datalist_keeps_them(tmp_path):
    made = propose_codes({0: "background", 1: "kidney_cyst_left"})
    about = {
        "modality": ("CT",),
        "licence": "none",
        "source": "here",
        "labels": {0: "background", 1: "kidney_cyst_left"},
    }
    lists = {"training": [], "validation": [], "test": [{"image": "a.nii"}]}
    path = tmp_path / "datalist.json"
    Datalist("d", 1, **about, ignore_index=None, **lists, path=path, codes=made).save()
    assert Datalist.load(path).codes == made
    path.write_text(path.read_text().replace('"region"', '"regoin"'))
    with pytest.raises(
        DatalistError, match=r"codes\['1'\] has the keys .*regoin.*beside them category, modifier, region"
    ):
        Datalist.load(path)
    path.write_text(path.read_text().replace('"regoin"', '"region"').replace('"Kidney"', '""'))
    with pytest.raises(DatalistError, match=r"codes\['1'\] region meaning is ''; DICOM takes 1 to 64"):
        Datalist.load(path)


LIVER = {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}


@pytest.mark.parametrize(
    "text", [json.dumps({"liver": LIVER}), json.dumps({"name": "a datalist", "codes": {"1": LIVER}}), f"1: {LIVER}"]
)
def test_a_file_names_codes(tmp_path, text):
    (tmp_path / "codes").write_text(text)
    assert read_codes(tmp_path / "codes", ["background", "liver"]) == {"1": LIVER}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"cannot be read \(No such file or directory\); name a file of codes"),
        ("{", "is no YAML"),
        ("[1]", "holds no codes; give them by class"),
        ('{"name": "d", "labels": {"1": "liver"}}', "holds no codes"),
        (json.dumps({"2": LIVER}), "names the class '2'; the model has background, liver"),
    ],
)
def test_a_file_without_codes(tmp_path, text, said):
    if text is not None:
        (tmp_path / "codes").write_text(text)
    with pytest.raises(CodeError, match=said):
        read_codes(tmp_path / "codes", ["background", "liver"])
