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
