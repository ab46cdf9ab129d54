"""The data of a comparison: folds are proposed where there are none, and the test list stays aside."""

import json
from pathlib import Path

import pytest
from tiny_study import write_data

from medseg.data.datalist import Datalist
from medseg.errors import MedsegError
from medseg.studies.network_comparison import compare_networks
from medseg.studies.network_data import own_data
from medseg.studies.network_record import Asked


def test_the_test_list_is_never_seen(tmp_path: Path) -> None:
    """Fixed lists are divided, whole groups together; the paths lead to the same files."""
    place = write_data(tmp_path / "data", cases=9) / "datalist.json"
    content = json.loads(place.read_text())
    entries = [{key: value for key, value in entry.items() if key != "fold"} for entry in content["training"]]
    for number, entry in enumerate(entries):
        entry["group"] = f"g{number // 2}"
    place.write_text(json.dumps({**content, "training": entries[:5], "validation": entries[5:8], "test": entries[8:]}))
    made = own_data(tmp_path / "data", tmp_path / "out", Asked(30))
    assert made.path == tmp_path / "out" / "data" / "datalist.json"
    known = Datalist.load(place)
    images = [made.absolute(entry)["image"] for entry in made.training]
    assert images == [known.absolute(entry)["image"] for entry in (*known.training, *known.validation)]
    assert (made.validation, made.test) == ([], [])
    groups = {(entry["group"], entry["fold"]) for entry in made.training}
    assert len(groups) == len({group for group, _ in groups}) == len({fold for _, fold in groups}) == 4
    said: list[str] = []
    assert own_data(tmp_path / "nowhere", tmp_path / "out", Asked(30), said.append) == made  # once it is made
    (line,) = said
    assert line.endswith(f"images, as when it was made; what came to {tmp_path / 'nowhere'} since needs a new folder")
    with pytest.raises(MedsegError, match="4 groups of labelled images cannot be divided into 5 folds; give --folds 2"):
        own_data(tmp_path / "data", tmp_path / "other", Asked(30, folds=5))


def test_a_scheme_that_divides_groups_is_refused(tmp_path: Path) -> None:
    """Whatever the scheme is called: the default one keeps them together."""
    place = write_data(tmp_path / "data", folds=2, cases=8) / "datalist.json"
    content = json.loads(place.read_text())
    for number, entry in enumerate(content["training"]):
        entry["group"], entry["fold_site"] = f"g{entry['fold']}{number // 4}", number // 2 % 2
    place.write_text(json.dumps(content))
    with pytest.raises(MedsegError, match=r"group 'g\d\d' is on both sides of a split \(fold_site 0, 1"):
        compare_networks(tmp_path / "data", tmp_path / "out", Asked(30, fold_key="fold_site"))
    assert not (tmp_path / "out" / "plans").exists()
