"""A part of a series, or slices of two, are not taken for a whole one."""

from node_desk import BROKEN, STILL
from node_parts import another_series, study_files

from medseg.node.upkeep import retry_study


def test_a_cut_series_is_not_whole_by_another_one(desk, tmp_path):
    files, others = study_files(tmp_path, 1), study_files(tmp_path / "more", 1, change=another_series)
    desk.receive(files[0], released=False)
    desk.cut(files[0])
    for file in others:
        desk.receive(file)
    assert desk.step(pause=STILL + 1) is None
    desk.recover()  # another node is sure of it, too
    desk.step(pause=BROKEN + 1)
    assert desk.states == {1: "failed"}
    for file in (*files, *others):
        desk.receive(file)
    desk.step()
    assert (desk.states, sorted(desk.shelf.objects.values())) == ({1: "done"}, [3, 3])


def test_slices_of_two_patients_under_one_uid(desk, tmp_path):
    def second(number, data):
        data.PatientID = f"Geheim-{4711 + number // 2}"

    for file in study_files(tmp_path, 1, slices=4, change=second):
        desk.receive(file)
    desk.step()
    (study,) = desk.status().studies
    assert (study.state, desk.shelf.objects) == ("failed", {})
    assert "state different patients (PatientID); split the series" in study.reason
    assert "Geheim" not in study.reason


def test_a_cut_series_that_is_taken_as_it_is(desk, tmp_path):
    files = study_files(tmp_path, 1)
    desk.receive(files[0], released=False)
    desk.cut(files[0])
    desk.step(pause=BROKEN + 1)
    retry_study(desk.queue, 1)
    desk.step()
    desk.receive(study_files(tmp_path / "more", 1, slices=1, change=another_series)[0])
    desk.step()
    assert (desk.states, sorted(desk.shelf.objects.values())) == ({1: "done"}, [1, 1])
