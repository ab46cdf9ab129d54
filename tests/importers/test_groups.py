import pytest

from medseg.importers.groups import hidden_identity, propose_groups
from medseg.importers.layout import Case, ImportingError


def cases(*names):
    return [Case(name, ()) for name in names]


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (("patient01_slice03", "patient01_slice04", "patient02_slice01"), ["patient01", "patient01", "patient02"]),
        (("case_12_t1", "case_12_t2", "case_13_t1"), ["case_12", "case_12", "case_13"]),
        (("x_tile_1", "x_tile_2", "y_tile_1"), ["x", "x", "y"]),
        (("s1_x0_y0", "s1_x0_y1", "s2_x0_y0"), ["s1", "s1", "s2"]),
        (("B-GLI-05-000", "B-GLI-05-001", "B-GLI-07-000"), ["B-GLI-05", "B-GLI-05", "B-GLI-07"]),
        (("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"), ["sub-01", "sub-01", "sub-02"]),
    ],
)
def test_names(names, groups):
    found = propose_groups(cases(*names), "")
    assert found.groups == groups
    assert f"such as {groups[0]} of {names[0]}" in found.how


@pytest.mark.parametrize(
    "names",
    [
        ("ISIC_0000041", "ISIC_0000068"),
        ("2008_000003", "2011_000004", "2011_000005"),
        ("case_1", "case_2"),
        ("0_1", "0_2", "0_3", "1_4", "1_5"),
        ("a_1_0", "a_1_1", "b"),
        ("a_1_0", "a_1_1"),
    ],
)
def test_names_that_tell_nothing(names):
    found = propose_groups(cases(*names), "")
    assert found.groups == list(names)
    assert "say them with --group-pattern" in found.how


def test_pattern_and_layout():
    named = [Case("a1_x", (), group="p1"), Case("a2_x", (), group="p1")]
    assert propose_groups(named, "a folder").groups == ["p1", "p1"]
    assert propose_groups(named, "a folder", "none").groups == ["a1_x", "a2_x"]
    assert propose_groups(named, "a folder", "^(a)").groups == ["a", "a"]
    for pattern, message in (
        ("(", "no regular expression"),
        ("a", "no group in brackets"),
        ("(a1)", "does not fit the case 'a2_x'"),
    ):
        with pytest.raises(ImportingError, match=message):
            propose_groups(named, "", pattern)


def test_groups_spelled_alike_are_one():
    found = propose_groups(cases("Patient01_slice03", "patient_1_slice04", "patient02_slice01"), "")
    assert found.groups == ["Patient01", "Patient01", "patient02"]
    assert found.how.endswith("; spelled alike, such as patient_1 and Patient01, are one")
    assert propose_groups(cases("a1_x", "A01_y", "b1_x"), "", "^(.*)_").groups == ["A01", "A01", "b1"]
    assert propose_groups([Case("x", (), group="P1"), Case("y", (), group="p1")], "a tag").groups == ["P1", "P1"]


def test_an_identity_is_hidden_and_stays_the_same():
    assert hidden_identity("Doe^Jane") == hidden_identity("Doe^Jane ")
    assert hidden_identity("Doe^Jane") != hidden_identity("Doe^John")
    assert "Doe" not in hidden_identity("Doe^Jane")


def test_names_that_are_spelled_alike_are_told_apart_where_nothing_groups_them():
    """Two pictures whose names differ by a capital: the proposal ended in a trace."""
    grouping = propose_groups(cases("a", "b", "B"), "")
    assert grouping.groups == ["a", "b", "B"]
