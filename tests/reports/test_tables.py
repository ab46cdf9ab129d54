"""One table in every format, with cells that come from outside."""

import csv
import html
import io
import json
import math
import re

import pytest

from medseg.errors import MedsegError, shown
from medseg.reports.tables import Code, Strong, Table, csv_cell, csv_text

TABLE = Table(
    ["name", "count", "score"],
    [["a|b", 1_234_567, 0.12345], ["<i>x</i>_1", 2, None], ["mean", 3, math.nan]],
    notes=["n & m"],
    title="T*",
    summary=1,
)


def test_text():
    assert TABLE.to_text().splitlines() == [
        "T*",
        "name            count  score",
        "----------  ---------  -----",
        "a|b         1,234,567  0.123",
        "<i>x</i>_1          2      -",
        "----------  ---------  -----",
        "mean                3      -",
        "n & m",
    ]


def test_markdown():
    assert TABLE.to_markdown().splitlines() == [
        "**T\\***",
        "",
        "| name | count | score |",
        "| --- | ---: | ---: |",
        "| a\\|b | 1,234,567 | 0.123 |",
        "| \\<i\\>x\\</i\\>\\_1 | 2 | - |",
        "| **mean** | **3** | **-** |",
        "",
        "n &amp; m",
    ]
    code = Table(["arguments"], [[Code("a|b=`x`")], [Code("c=1")]]).to_markdown().splitlines()
    assert code[2:] == ["| `` a\\|b=`x` `` |", "| `c=1` |"]


def test_what_rounds_to_nothing_has_no_sign():
    table = Table(["a", "b"], [["x", -0.0003], ["y", -0.0006]])
    assert [line.split()[-1] for line in table.to_text().splitlines()[2:]] == ["0.000", "-0.001"]
    assert "-0.000" not in table.to_markdown() + table.to_latex() + table.to_html()
    assert "-0.0003" in table.to_csv()


def test_csv_keeps_all_digits():
    rows = list(csv.reader(io.StringIO(TABLE.to_csv())))
    assert rows == [
        ["name", "count", "score"],
        ["a|b", "1234567", "0.12345"],
        ["<i>x</i>_1", "2", ""],
        ["mean", "3", ""],
    ]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\\t=1"),
        ("\r=1", "'\\r=1"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        ("-", "'-"),
        ("'=1", "''=1"),
        (-0.25, "-0.25"),
        (math.nan, ""),
        (0.1 + 0.2, "0.30000000000000004"),
        ("plain", "plain"),
    ],
)
def test_no_cell_is_a_formula(cell, expected):
    assert csv_cell(cell) == expected
    if isinstance(cell, str):
        assert csv_text(expected) == shown(cell)


NASTY = "a\nb\x1b[31m\ud800\u202e"


@pytest.mark.parametrize("kind", ["text", "markdown", "csv", "latex", "html", "json"])
def test_names_from_outside_change_no_line(kind):
    """A line break, ESC, a lone surrogate and a turn of direction are shown, and can be written in UTF-8."""
    plain = Table(
        ["x"],
        [
            [
                "name",
            ],
            ["b"],
        ],
        title="t",
        notes=["n"],
    ).to(kind)
    text = Table([NASTY], [[NASTY], ["b"]], title=NASTY, notes=[NASTY]).to(kind)
    text.encode("utf-8")
    assert "\x1b" not in text
    if kind != "json":  # which names escapes of its own
        assert "\u202e" not in text
        assert text.count("\n") == plain.count("\n")
    else:
        assert json.loads(text)["rows"][0] == {NASTY: NASTY}


def test_html_and_latex_escape_their_signs():
    nasty = "<script>&\"'"
    page = Table([nasty], [[nasty], ["x"]]).to_html()
    assert "<script" not in page
    assert html.unescape(re.findall("<td>(.*?)</td>", page)[0]) == nasty
    latex = Table(["50 %", "n"], [["a_b & {c} \\ $x$ #1 ~^", 1.0], ["mean", 2.0]], summary=1).to_latex().splitlines()
    assert latex[:4] == ["\\begin{tabular}{lr}", "\\toprule", "50 \\% & n \\\\", "\\midrule"]
    signs = r"a\_b \& \{c\} \textbackslash{} \$x\$ \#1 \textasciitilde{}\textasciicircum{}"
    assert latex[4] == signs + " & 1.000 \\\\"
    assert latex[5:] == ["\\midrule", "mean & 2.000 \\\\", "\\bottomrule", "\\end{tabular}"]


def test_json():
    assert json.loads(TABLE.to_json()) == {
        "title": "T*",
        "rows": [
            {"name": "a|b", "count": 1234567, "score": 0.12345},
            {"name": "<i>x</i>_1", "count": 2, "score": None},
            {"name": "mean", "count": 3, "score": None},
        ],
        "notes": ["n & m"],
    }


def test_of_mappings_and_empty():
    table = Table.of([{"a": 1}, {"b": "x"}])
    assert table.to_csv() == "a,b\n1,\n,x\n"
    assert Table(["a"], []).to_text().splitlines() == ["a", "-"]
    assert Table(["a"], []).to_csv() == "a\n"


def test_bad_rows_and_formats():
    with pytest.raises(MedsegError, match="a row of 1 cells in a table of 2 columns"):
        Table(["a", "b"], [[1]])
    with pytest.raises(MedsegError, match="there is no table format 'xlsx'; choose among text, markdown"):
        TABLE.to("xlsx")


def test_strong_cells() -> None:
    table = Table(["a", "b"], [[Strong("1 | x_y"), 2.0]])
    assert "**1 \\| x\\_y**" in table.to_markdown()
    assert "\\textbf{1 | x\\_y} & 2.000" in table.to_latex()
    assert "<strong>1 | x_y</strong>" in table.to_html()
    assert table.to_text().splitlines()[-1].startswith("1 | x_y *")
    assert table.to_csv().splitlines()[1] == "1 | x_y *,2.0"
    assert json.loads(table.to_json())["rows"][0]["a"] == "1 | x_y *"
