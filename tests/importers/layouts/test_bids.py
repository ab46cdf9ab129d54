from pathlib import Path

import pytest

from medseg.importers.layout import ImportingError, Question

LESION = "derivatives/manual/sub-{0}/anat/sub-{0}_label-lesion_mask.nii.gz"


@pytest.fixture
def bids(make):
    make.text("dataset_description.json", '{"Name": "Stroke", "BIDSVersion": "1.8.0", "License": "CC0"}')
    for subject in ("01", "02", "03"):
        make.volume(f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz")
        if subject != "03":
            make.volume(LESION.format(subject), label=True)
    return make


def test_masks(bids, bring, left_out):
    made = bring()
    assert made.found.layout == "bids"
    assert (made.datalist.name, made.datalist.licence, made.datalist.modality) == ("Stroke", "CC0", ("T1w",))
    assert made.datalist.labels == {0: "background", 1: "lesion"}
    assert [entry["group"] for entry in made.datalist.training] == ["sub-01", "sub-02"]
    assert left_out(made) == {"sub-03/anat/sub-03_T1w.nii.gz": "not part of bids"}


def test_sessions_and_channels(bids, bring):
    for session in ("1", "2"):
        stem = f"sub-09/ses-{session}/anat/sub-09_ses-{session}"
        bids.volume(f"{stem}_T1w.nii.gz", f"{stem}_FLAIR.nii.gz")
        bids.volume(f"derivatives/manual/{stem}_space-orig_label-lesion_mask.nii.gz", label=True)
    with pytest.raises(Question, match=r"has the images FLAIR, T1w; name the channels with --images, such as FLAIR"):
        bring()
    made = bring(images="T1w,FLAIR", layout="bids")
    assert [case.name for case in made.found.cases] == ["sub-09_ses-1", "sub-09_ses-2"]
    assert [entry["group"] for entry in made.datalist.training] == ["sub-09", "sub-09"]
    assert made.datalist.training[0]["image"][1].endswith("sub-09_ses-1_FLAIR.nii.gz")


def test_subjects_of_another_modality_each_are_no_one_channel(bids, bring):
    (bids.root / "sub-02/anat/sub-02_T1w.nii.gz").rename(bids.root / "sub-02/anat/sub-02_FLAIR.nii.gz")
    with pytest.raises(
        Question, match=r"sub-02_label-lesion_mask.nii.gz has the image FLAIR, and those before have T1w"
    ):
        bring()
    assert [case.name for case in bring(images="T1w").found.cases] == ["sub-01"]


def test_classes_of_a_table_and_kinds(bids, bring, left_out):
    for subject in ("01", "02"):
        stem = f"derivatives/atlas/sub-{subject}/anat/sub-{subject}"
        bids.volume(f"{stem}_dseg.nii.gz", label=True, values=(0, 3, 7))
        bids.volume(f"{stem}_space-MNI152_dseg.nii.gz", label=True)
    bids.text("derivatives/atlas/dseg.tsv", "index\tname\n3\tcaudate\n7\tputamen\n")
    with pytest.raises(Question, match=r"has masks of 2 kinds \(atlas/dseg, manual/label-lesion/mask\)"):
        bring()
    made = bring(labels="dseg")
    assert made.datalist.labels == {0: "background", 1: "caudate", 2: "putamen"}
    assert made.datalist.values == {0: 0, 3: 1, 7: 2}
    place = "derivatives/atlas/sub-01/anat/sub-01_space-MNI152_dseg.nii.gz"
    assert left_out(made)[place] == "lies in the space MNI152, not its image's"
    assert len(bring(output="two", labels="lesion").found.cases) == 2
    with pytest.raises(
        ImportingError, match=r"has no mask of the kind 'tumour'; there is atlas/dseg, manual/label-lesion/mask"
    ):
        bring(output="three", labels="tumour")


def test_bad_table(bids, bring):
    bids.volume("derivatives/atlas/sub-01/anat/sub-01_dseg.nii.gz", label=True)
    bids.text("derivatives/atlas/dseg.tsv", "index\tlabel\n1\tx\n")
    with pytest.raises(ImportingError, match=r"dseg\.tsv: a line lacks index or name"):
        bring(labels="dseg")


def test_tables_beside_the_masks(bids, bring):
    for subject in ("01", "02"):
        stem = f"derivatives/atlas/sub-{subject}/anat/sub-{subject}_dseg"
        bids.volume(f"{stem}.nii.gz", label=True)
        bids.text(f"{stem}.tsv", "index\tname\n1\tcaudate\n")
    assert bring(labels="dseg").datalist.labels == {0: "background", 1: "caudate"}
    bids.text(f"{stem}.tsv", "index\tname\n1\tputamen\n")
    with pytest.raises(
        ImportingError, match=r"sub-02_dseg.tsv: names other classes than derivatives/atlas/sub-01/anat"
    ):
        bring(output="two", labels="dseg")


def test_a_mask_of_two_runs(bids, bring):
    """The last one would be taken without a word."""
    for run in (1, 2):
        bids.volume(f"sub-09/anat/sub-09_run-{run}_T1w.nii.gz")
    bids.volume(LESION.format("09"), label=True)
    with pytest.raises(
        ImportingError, match=r"mask.nii.gz: does not say whether it is of sub-09_run-1_T1w.nii.gz or of"
    ):
        bring()
    (bids.root / LESION.format("09")).rename(
        bids.place("derivatives/manual/sub-09/anat/sub-09_run-2_label-lesion_mask.nii.gz")
    )
    assert bring(output="two").datalist.training[2]["image"].endswith("sub-09_run-2_T1w.nii.gz")


def test_a_mask_in_the_space_of_another_image(bids, bring, left_out):
    stem = "sub-09/anat/sub-09"
    bids.volume(f"{stem}_T1w.nii.gz", f"{stem}_FLAIR.nii.gz")
    place = f"derivatives/manual/{stem}_space-FLAIR_label-lesion_mask.nii.gz"
    bids.volume(place, label=True)
    made = bring(images="T1w")
    assert len(made.found.cases) == 2
    assert left_out(made)[place] == "lies in the space of FLAIR, which is no channel of its image"
    assert [case.name for case in bring(output="two", images="FLAIR").found.cases] == ["sub-09"]


def test_halves_and_atlases_are_kinds_of_masks(bids, bring):
    """Each was the whole label of a further case of the same image, which says of the other half that it is nothing."""
    for subject in ("01", "02", "03"):
        for part in ("hemi-L", "hemi-R"):
            bids.volume(f"derivatives/halves/sub-{subject}/anat/sub-{subject}_{part}_mask.nii.gz", label=True)
    with pytest.raises(Question, match=r"has masks of 3 kinds \(.*halves/hemi-L/mask, halves/hemi-R/mask"):
        bring()
    made = bring(labels="hemi-L")
    assert [Path(entry["label"]).name for entry in made.datalist.training] == [
        f"sub-{subject}_hemi-L_mask.nii.gz" for subject in ("01", "02", "03")
    ]


def test_an_image_with_two_masks_of_one_kind_is_no_two_cases(bids, bring):
    for run in ("1", "2"):
        bids.volume(f"derivatives/manual/sub-03/anat/sub-03_run-{run}_label-lesion_mask.nii.gz", label=True)
    with pytest.raises(
        ImportingError,
        match=r"sub-03_T1w.nii.gz is annotated 2 times \(.*run-1_label-lesion_mask.nii.gz, .*run-2_.*\), and a case",
    ):
        bring()
