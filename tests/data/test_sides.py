import pytest

from medseg.data.sides import sided


@pytest.mark.parametrize(
    "names",
    [
        *(
            ("LK", "RK"),
            ("rib_L1", "rib_R1"),
            ("lkidney", "rkidney"),
            ("kidneyL", "kidneyR"),
            ("lh", "rh"),
            ("LV", "RV"),
        ),
        *(
            ("Niere links", "liver"),
            ("rein gauche", "foie"),
            ("femur_dx", "femur_sin"),
            ("OD", "OS"),
            ("Left-Lung", "x"),
        ),
    ],
)
def test_sides(names):
    assert sided(("background", *names))


@pytest.mark.parametrize(
    "names",
    [("liver", "kidney", "tumour"), ("L1", "L2", "R"), ("anterior", "posterior"), ("kidney_r", "liver"), ("", "OS")],
)
def test_no_sides(names):
    assert not sided(("background", *names))
