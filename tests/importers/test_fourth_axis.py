"""What an import says of volumes of four axes."""

import nibabel
import pytest

from medseg.importers.layout import ImportingError


def _time(make, name):
    """Say in a header that its fourth axis is time."""
    image = nibabel.load(make.root / name)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.5
    whole = nibabel.Nifti1Image(image.get_fdata().astype("i2"), image.affine, image.header)
    nibabel.save(whole, make.root / name)


def _pairs(make, *, channels):
    for number, count in enumerate(channels):
        make.volume(f"images/p{number}.nii.gz", channels=count)
        make.volume(f"masks/p{number}.nii.gz", label=True)


@pytest.mark.parametrize(("channels", "said", "expected"), [
    ((3, 3), (), "the fourth axis of every image is taken as 3 channels; --modality names them"),
    ((3, 3), ("T1", "T2", "FLAIR"), "the fourth axis of every image is taken as 3 channels: T1, T2, FLAIR"),
    ((3, 3), ("MR",), "the fourth axis of every image is taken as 3 channels; --modality names them"),
    ((1, 3, 5), (), "the fourth axis of 2 of 3 images is taken as 3 to 5 channels; --modality names them"),
])  # fmt: skip
def test_is_told_in_one_line(make, bring, channels, said, expected):
    _pairs(make, channels=channels)
    made = bring(modality=said, check=len(set(channels)) == 1)
    assert [note for note in made.found.notes if "fourth" in note] == [expected]


def test_volumes_of_three_axes_are_not_mentioned(make, bring):
    _pairs(make, channels=(1, 1))
    assert not any("fourth" in note for note in bring().found.notes)


def test_time_is_refused(make, bring, tmp_path):
    _pairs(make, channels=(4, 4))
    _time(make, "images/p1.nii.gz")
    with pytest.raises(
        ImportingError,
        match=r"images/p1.nii.gz: its fourth axis is time, 4 steps \(2.5 s apart\), and a case is one volume; store "
        r"each as a file of its own, or, .* --modality T0,T1,T2,T3$",
    ):
        bring(modality=("MR",))
    assert not (tmp_path / "out").exists()


def test_time_that_somebody_says_is_channels(make, bring):
    _pairs(make, channels=(2, 2))
    _time(make, "images/p0.nii.gz")
    made = bring(modality=("early", "late"))
    assert made.found.notes[-1] == "the fourth axis of every image is taken as 2 channels: early, late"


def test_a_damaged_header_is_the_checks_to_tell(make, bring):
    _pairs(make, channels=(2, 2))
    make.text("images/p0.nii.gz", "nothing")
    assert bring(check=False).found.notes[-1].startswith("the fourth axis of 1 of 2 images is taken as 2 channels")
