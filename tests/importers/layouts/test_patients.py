import pytest

from medseg.importers.layout import ImportingError, Question


def test_channels_and_label(make, bring, left_out):
    for patient in ("BraTS_1", "BraTS_2", "BraTS_3"):
        make.volume(*(f"{patient}/{patient}_{part}.nii.gz" for part in ("flair", "t1")))
        make.volume(f"{patient}/{patient}_seg.nii.gz", label=True)
    (make.root / "BraTS_3/BraTS_3_t1.nii.gz").unlink()
    made = bring()
    assert made.found.layout == "patients"
    assert made.datalist.modality == ("flair", "t1")
    assert made.datalist.training[0]["image"] == [
        f"../source/BraTS_1/BraTS_1_{part}.nii.gz" for part in ("flair", "t1")
    ]
    assert [entry["group"] for entry in made.datalist.training] == ["BraTS_1", "BraTS_2"]
    assert left_out(made)["BraTS_3/BraTS_3_flair.nii.gz"] == "the patient lacks t1"
    one = bring(output="one", images="t1")
    assert one.datalist.training[0]["image"] == "../source/BraTS_1/BraTS_1_t1.nii.gz"


def test_equal_names(make, bring):
    for patient in ("case_1", "case_2"):
        make.volume(f"{patient}/imaging.nii.gz")
        make.volume(f"{patient}/segmentation.nii.gz", label=True, values=(0, 1, 2))
    made = bring()
    assert [case.name for case in made.found.cases] == ["case_1", "case_2"]
    assert made.datalist.training[0]["label"] == "../source/case_1/segmentation.nii.gz"


def test_several_labels(make, bring):
    for patient in ("1", "2"):
        make.picture(f"{patient}/image.png")
        make.label(f"{patient}/mask_a.png", f"{patient}/mask_b.png")
    with pytest.raises(Question, match=r"has 2 labels among image, mask_a, mask_b; name one with --labels"):
        bring()
    assert bring(labels="mask_a").datalist.training[1]["label"] == "../source/2/mask_a.png"
    with pytest.raises(ImportingError, match=r"no part t7 among image, mask_a, mask_b"):
        bring(output="two", labels="mask_a", images="t7")


def test_no_folders(make, bring):
    make.picture("a.png")
    with pytest.raises(ImportingError, match=r"holds no folder of images"):
        bring(layout="patients")


@pytest.mark.parametrize(
    ("places", "groups"),
    [
        (("P1/visit_1", "P1/visit_2", "P2/visit_1"), ["P1", "P1", "P2"]),
        (("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"), ["sub-01", "sub-01", "sub-02"]),
        (("a/patient1/x", "a/patient1/y", "b/patient2/x"), ["a/patient1", "a/patient1", "b/patient2"]),
        (("7/20110304", "7/20120304", "8/20110304"), ["7", "7", "8"]),
        (("7/baseline", "7/follow-up", "8/baseline"), ["7", "7", "8"]),
        (("train/day1", "train/day2", "more/3"), ["train/day1", "train/day2", "more/3"]),
        (("site1/a", "site1/b", "site2/c"), ["site1/a", "site1/b", "site2/c"]),
    ],
)
def test_one_patient_at_several_times(make, bring, places, groups):
    for place in places:
        make.volume(f"{place}/t1.nii.gz")
        make.volume(f"{place}/seg.nii.gz", label=True)
    made = bring()
    assert made.found.layout == "patients"
    assert {entry["image"].removeprefix("../source/").rpartition("/")[0]: entry["group"]
            for entry in made.datalist.training} == dict(zip(places, groups, strict=True))  # fmt: skip
    together = len(set(groups)) < len(groups)
    assert made.grouping.how.startswith("a patient's folders together" if together else "one folder a patient")


def test_a_study_whose_name_says_test(make, bring):
    """Visits of TS-01 and TS-02, of tuberous sclerosis, were all of the test list."""
    for patient in ("TS-01", "TS-02"):
        for visit in ("visit1", "visit2"):
            make.volume(f"{patient}/{visit}/t1.nii.gz")
            make.volume(f"{patient}/{visit}/seg.nii.gz", label=True)
    made = bring().datalist
    assert (len(made.training), len(made.test)) == (4, 0)
    assert sorted({entry["group"] for entry in made.training}) == ["TS-01", "TS-02"]
