"""Where the bounds of a datalist's content lie: the last value that is taken, and the first that is not."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from datalists import ENTRY, content

from medseg.data.datalist import Datalist
from medseg.data.schema import DatalistError, read_json, validate

CODE = {"value": "1", "scheme": "SCT", "meaning": "Liver"}


def nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


def entry(**changes: Any) -> dict[str, Any]:
    return content(training=[{**ENTRY, **changes}])


@pytest.mark.parametrize(
    "good",
    [
        content(),
        content(version=10**18 - 1),
        content(version=-(10**18) + 1),
        content(preparation={"a": nested(31)}),
        content(ignore_index=2**31 - 1),
        content(ignore_index=-(2**31)),
        content(ignore_index=2),
        content(ignore_index=-1),
        content(codes={"1": {"value": "1" * 16, "scheme": "S" * 16, "meaning": "m" * 64}}),
        content(colours={"0": "#0aF9fA"}),
        content(labels={"0": "only"}),
        content(labels={str(n): str(n) for n in range(12)}, colours={"11": "#000000"}),
        content(values={"-5": 0, "999999999": 1}),
        content(values={"3": 255}, ignore_index=255),
        content(training=[], test=[{"image": "a.png"}]),
        content(training=[], validation=[ENTRY]),
        entry(image="x/../a.png", label="./x/y/../../b.png"),
        entry(fold=0),
        content(training=[{**ENTRY, "fold": 0}], validation=[ENTRY]),
    ],
)
def test_what_is_still_taken(good: dict[str, Any], tmp_path: Path) -> None:
    """Read, and written again as it was."""
    (tmp_path / "d.json").write_text(json.dumps(good))
    written = Datalist.load(tmp_path / "d.json").save(tmp_path / "again.json")
    assert json.loads(written.read_text()) == good


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (content(version=10**18), "version holds an integer of more than 18 digits; write a smaller one"),
        (content(version=-(10**18)), "version holds an integer of more than 18 digits"),
        (content(preparation={"a": float("inf")}), "preparation holds inf; only finite numbers can be used"),
        (content(preparation={"a": nested(32)}), "preparation is nested more than 32 deep; make it flat"),
        (content(ignore_index=2**31), "ignore_index 2147483648 does not fit 32 bits"),
        (content(ignore_index=-(2**31) - 1), "ignore_index -2147483649 does not fit 32 bits"),
        (content(ignore_index=True), "ignore_index is a boolean ('True'), but must be an integer or null"),
        (
            content(codes={"1": {**CODE, "scheme": "S" * 17}}),
            f"codes['1'] scheme is '{'S' * 17}'; DICOM takes 1 to 16 printable",
        ),
        (
            content(codes={"1": {**CODE, "meaning": "m" * 65}}),
            f"codes['1'] meaning is '{'m' * 65}'; DICOM takes 1 to 64",
        ),
        (content(codes={"1": {**CODE, "more": "m"}}), "codes['1'] has the keys meaning, more, scheme, value; give"),
        (content(codes={"1": {}}), "codes['1'] has the keys none; give"),
        (content(colours=["#000000"]), "colours is a list"),
        (content(preparation=1), "preparation is an integer"),
        (content(codes=[]), "codes is a list"),
        (content(colours={"2": "#000000"}), "colours names the class '2', but labels has 0, 1; take one of these"),
        (content(colours={"0": "#0aF9fg"}), "colours['0'] is '#0aF9fg'; write red"),
        (content(colours={"0": "#0aF9f"}), "colours['0'] is '#0aF9f'; write red"),
        (content(values={"1000000000": 1}), "values has the key '1000000000'; keys are stored values"),
        (content(values={"-0": 1}), "values has the key '-0'"),
        (content(values={"3": 2}), "values maps 3 to 2, which is no class; name one of 0-1"),
        (content(labels={"1": "a"}), "labels has the indices 1; number the classes"),
        (content(labels={"0": 1}), "labels['0'] is an integer"),
        (content(labels={"0": "a", "1": "b", "2": "b"}), "labels names 'b' twice"),
        (content(codes={"1": {"k" * 81: ""}}), f"codes['1'] has the keys {'k' * 80}; give"),
        (content(**{"k" * 41: 1e999}), f"{'k' * 40} holds inf; only"),
        (content(modality=["EM", 3]), "modality[1] is an integer"),
        (entry(image="./."), "training[0]: image is './.'; give a path relative to the datalist"),
        (entry(fold_site=True), "training[0]: fold_site is a boolean"),
        (content(training=[{**ENTRY, "fold": 0}, {**ENTRY, "fold_b": 0}]), "training[1] lacks 'fold', which other"),
        (content(training=[ENTRY, {**ENTRY, "fold": 0}]), "training[0] lacks 'fold', which other"),
        (content(validation=[ENTRY, {**ENTRY, "fold": 0}]), "validation[0] lacks 'fold'"),
        (
            content(validation=[{"image": "a.png"}]),
            "validation[0] lacks 'label'; every validation entry needs image and",
        ),
        (content(test=[{"label": "a.png"}]), "test[0] lacks 'image'; every test entry needs image"),
        ({key: value for key, value in content().items() if key != "test"}, "lacks 'test'; add the key\n"),
        (dict(list(content().items())[:-2]), "lacks 'validation', 'test'; add the keys\n"),
    ],
)
def test_what_is_no_longer_taken(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(DatalistError) as caught:
        validate(bad, "d.json")
    assert f"{caught.value}\n".startswith(f"d.json: {message}")


@pytest.mark.parametrize(("count", "listed"), [(8, "0, 1, 2, 3, 4, 5, 6, 8"), (9, "0, 1, 2, 3, 4, 5, 6, 8 ... 9")])
def test_few_are_listed_whole_and_of_many_the_last_is_named(count: int, listed: str) -> None:
    """Class 7 is missing."""
    labels = {str(n): str(n) for n in [*range(7), *range(8, count + 1)]}
    with pytest.raises(DatalistError, match=f"labels has the indices {listed}; number the classes"):
        validate(content(labels=labels), "d.json")


def test_long_values_are_cut() -> None:
    for length, shown in ((80, f"'{'x' * 80}'"), (81, f"'{'x' * 80}'...")):
        with pytest.raises(DatalistError) as caught:
            validate(content(version="x" * length), "d.json")
        assert str(caught.value) == f"d.json: version is a string ({shown}), but must be an integer"


@pytest.mark.parametrize("sign", ["", "-"])
def test_numbers_of_18_digits_fit(tmp_path: Path, sign: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(f'{{"a": {sign}{"9" * 18}, "b": -1.5e3, "c": {{"a": 1}}}}')
    assert read_json(path) == {"a": int(f"{sign}{'9' * 18}"), "b": -1500.0, "c": {"a": 1}}
    path.write_text(f'{{"a": {sign}1{"0" * 18}}}')
    with pytest.raises(DatalistError, match=r"d\.json: holds an integer of \d\d digits"):
        read_json(path)


def test_the_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"a": 1, "b": 2, "c": 3, "b": 2}')
    with pytest.raises(DatalistError, match="key 'b' stands twice in one object; keep one of them"):
        read_json(tmp_path / "d.json")


def test_no_file_of_more_than_a_gibibyte_is_read(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.touch()
    os.truncate(path, 2**30 + 1)  # a hole, which takes no room
    with pytest.raises(DatalistError, match=r"has 1073741825 bytes, too many for a datalist \(at most 1073741824\)"):
        read_json(path)


@pytest.mark.parametrize(
    ("text", "name"), [("1", "an integer"), ("true", "a boolean"), ("null", "null"), ("1.5", "a float")]
)
def test_what_is_no_object_is_named(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(DatalistError, match=f"holds {name} at the top, but a datalist is an object"):
        read_json(tmp_path / "d.json")
