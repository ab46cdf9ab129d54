import json
import re
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from medseg.bundle.discovery import networks
from medseg.studies import complexity, isolated, networks_doc
from medseg.studies.complexity import MEASURES, ComplexityError, build, choose_rows, measure
from medseg.studies.complexity_table import complexity_table, notes
from medseg.studies.measures import StepSettings
from medseg.studies.paper_figures import ROWS, Row

ROOT = Path(__file__).parents[2]
TINY = Row("tiny", "medseg.networks.unet.UNet", 1, 2, (32, 32), {"channels": (4, 8)})


def test_known_parameters():
    result = measure(choose_rows(["UNet", "LFAUNet"]), ["parameters"])
    assert [row["parameters"] for row in result["rows"]] == [31_036_741, 28_950_661]


def test_macs_of_a_small_unet_by_hand():
    fine, coarse = 32 * 32, 16 * 16
    encoder = fine * 9 * (1 * 4 + 4 * 4) + coarse * 9 * (4 * 8 + 8 * 8)
    decoder = coarse * 4 * 8 * 4 + fine * 9 * (8 * 4 + 4 * 4)
    (row,) = measure([TINY])["rows"]
    assert row["macs"] == encoder + decoder + fine * 4 * 2


def test_attention_is_among_the_macs():
    local, whole = (
        measure([Row("", "medseg.networks.lfa_unet.LFAUNet", 1, 5, (256, 256), {"window_size": m})], ["macs"])["rows"][
            0
        ]
        for m in (7, None)
    )
    assert local["macs"] / whole["macs"] == pytest.approx(0.063, abs=5e-4)


@pytest.fixture(scope="module")
def measured():
    """A network that does not fit, and after it another: each slow measure takes a process of its own.

    Here they fork from one that has imported what they need; tests/studies/test_isolated.py has fresh ones.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["medseg.studies.complexity", "medseg.networks.unet"])
    huge = Row("huge", TINY.target, 1, 2, (2**20, 2**20), TINY.kwargs)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(isolated, "get_context", lambda _: context)
        first = measure([huge], ["memory"], batch_size=1, device="cpu")
        return first, measure([TINY], MEASURES, batch_size=3, device="cpu")


@pytest.fixture(scope="module")
def page():
    return networks_doc.networks_doc()


def test_every_measure_is_json(measured):
    result = json.loads(json.dumps(measured[1]))
    assert result["settings"] == {
        "measures": ["parameters", "macs", "memory", "training", "throughput"],
        "batch_size": 3,
        "device": "cpu",
        "device_name": None,
        "threads": torch.get_num_threads(),
        "memory_format": "channels_last",
        "optimizer": "Adam",
        "precision": "float32",
    }
    (row,) = result["rows"]
    assert set(row) == {
        *("name", "target", "kwargs", "in_channels", "out_channels", "size", "paper", "errors"),
        *("parameters", "macs", "memory_bytes", "training", "throughput"),
    }
    assert row["errors"] == {}
    assert row["paper"] is None
    assert row["throughput"]["forward"] > 0
    assert row["throughput"]["training"] > 0
    assert set(row["training"]) == {"training", "training_runs"}
    # weights, gradients and Adam's two moments; of feature maps at least what the finest level's two blocks keep
    assert row["memory_bytes"] > 4 * (4 * row["parameters"] + 3 * 4 * 32 * 32 * 4)
    table = complexity_table(result)
    headings, lines = table.columns, table.rows
    assert headings == ["network", "parameters", "GMAC", "peak MiB", "images/s forward", "images/s training"]
    assert lines[0][:2] == ["tiny", row["parameters"]]
    text = " ".join(notes(result))
    assert "3 images at a time on cpu" in text
    assert "element-wise work" in text


def test_one_failing_network_does_not_stop_the_others():
    absent = Row("absent", "medseg.networks.no_such_module.Net", 1, 2)
    wrong = Row("wrong", TINY.target, 1, 2, (32, 32), {"channels": (4,)})
    result = measure([absent, wrong, TINY])
    errors = [row["errors"] for row in result["rows"]]
    assert "no_such_module" in errors[0]["parameters"]
    assert "give two or more levels" in errors[1]["macs"]
    assert errors[2] == {}
    assert result["rows"][2]["macs"] > 0
    table = complexity_table(result)
    headings, lines = table.columns, table.rows
    assert [line[headings.index("GMAC")] for line in lines[:2]] == [None, None]
    assert any(note.startswith("absent: no parameters: ModuleNotFoundError") for note in notes(result))


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (RuntimeError("shapes do not agree"), False),
    ],
)
def test_what_want_of_memory_looks_like(monkeypatch, error, wanted):
    def fail(*_):
        raise error

    monkeypatch.setitem(complexity._SLOW, "memory", fail)
    found = complexity._slow(["memory", "training"], TINY, 2, "cpu", StepSettings())
    value, message = found["memory"]
    assert value is None
    assert found["training"][0]["training"] > 0
    assert ("a batch of 2, 32 x 32 pixels, does not fit" in message) is wanted
    assert wanted or message == "RuntimeError: shapes do not agree"


def test_training_alone_is_a_column() -> None:
    row = {**complexity._describe(TINY), "training": {"training": 2.0, "training_runs": 3}}
    table = complexity_table({"settings": {"measures": ["training"]}, "rows": [row]})
    assert (table.columns, table.rows) == (["network", "images/s training"], [["tiny", "2"]])
    assert any("training is forward, backward" in note for note in table.notes)


def test_what_does_not_fit_and_what_comes_after_it(measured):
    first, second = (result["rows"][0] for result in measured)
    assert first["memory_bytes"] is None
    message = "a batch of 1, 1048576 x 1048576 pixels, does not fit in the memory of cpu; try a smaller one"
    assert first["errors"] == {"memory": message}
    assert second["memory_bytes"] > 0


def test_rows_of_the_package():
    rows = choose_rows()
    assert [row.target for row in rows] == [network.target for network in networks()]
    assert {(row.in_channels, row.out_channels, row.size, row.table) for row in rows} == {(1, 5, (256, 256), "")}
    (row,) = choose_rows(["unet"], size=[32], spatial_dims=3, in_channels=4, out_channels=7)
    assert (row.in_channels, row.out_channels, row.size) == (4, 7, (32, 32, 32))
    assert choose_rows(["unet"], size=[32, 16, 16])[0].size == (32, 16, 16)
    assert choose_rows(["unet"], spatial_dims=3)[0].size == (64, 64, 64)


def test_rows_of_a_table():
    assert [row.paper_parameters for row in choose_rows(table="2")] == [
        "7.94",
        "9.04",
        "20.66",
        "8.91",
        "19.07",
        "7.80",
    ]
    (row,) = choose_rows(["focusnet_pp"], table="3", size=[128])
    assert (row.kwargs, row.size, row.paper_parameters) == ({"configuration": "light"}, (128, 128), "0.98")
    assert {row.table for row in ROWS} >= {"2", "3", "lfa_unet"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["LFAUNett"]}, "there is no network 'LFAUNett'; the nearest is LFAUNet; choose from "),
        ({"table": "7"}, "there is no table '7'; choose from 2, 3, lfa_unet"),
        ({"table": "3", "names": ["LFAUNet"]}, "table 3 has no row of LFAUNet"),
        ({"table": "2", "in_channels": 1}, "table 2 says channels and dimensions itself; leave those options out"),
        ({"size": [8, 8], "spatial_dims": 3}, "size 8 8 is no image of 3 axes; give 1 or 3 edges"),
        ({"size": [8, 8, 8, 8]}, "the image has 4 axes; networks take 2 or 3"),
    ],
)
def test_contradictions(options, message):
    with pytest.raises(ComplexityError, match=re.escape(message)):
        choose_rows(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"measures": ["speed"]},
            "there is no measure 'speed'; choose from parameters, macs, memory, training, throughput",
        ),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"device": "cude"}, "there is no device 'cude'; choose cpu or cuda"),
        ({"device": "meta"}, "the device is meta; cpu and cuda can be measured"),
        ({"device": "cuda:99"}, "GPUs, the device is cuda:99; choose cpu"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ComplexityError, match=message):
        measure([TINY], **options)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table}-{row.name}")
def test_papers_rows_can_be_built_and_are_near_the_papers(row):
    network = build(row, "meta")
    if row.paper_parameters:
        ours = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        assert 0.8 < ours / float(row.paper_parameters) < 1.25  # the same network at the same widths


def test_figures_of_the_paper_stand_beside_ours():
    result = measure(choose_rows(["FocusNetPP"], table="2"))
    paper = {"source": "FocusNet++, table 2", "parameters": 7.8, "macs": None, "flops_as_printed": 15.64}
    assert result["rows"][0]["paper"] == paper
    table = complexity_table(result)
    headings, lines = table.columns, table.rows
    assert headings == ["network", "parameters", "paper's, 10^6", "GMAC", 'paper\'s "FLOPs", 10^6']
    assert lines[0][2:3] + lines[0][4:] == ["7.80", "15.64"]
    assert any("know no image size" in note for note in notes(result))


def test_progress():
    seen = []
    measure([TINY, TINY], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_page_is_current(page):
    path = ROOT / "docs" / "networks.md"
    assert path.is_file(), "docs/networks.md is missing; write it with: python .ci/make_networks_doc.py"
    current = path.read_text(encoding="utf-8") == page
    assert current, "docs/networks.md is out of date; write it anew with: python .ci/make_networks_doc.py"


def test_the_page_names_every_network_and_its_paper(page):
    for network in networks():
        (line,) = [line for line in page.splitlines() if line.startswith(f"- **{network.name}** (`{network.module}`")]
        assert re.search(r"\[(paper|source)\]\(https://[^)\s]*[^).,\s]\)\): \S", line)
    assert "To add a row" not in page


def test_the_page_does_not_hide_a_failure(monkeypatch):
    monkeypatch.setattr(networks_doc, "choose_rows", lambda: [Row("x", "medseg.networks.unet.Nothing", 1, 5)])
    with pytest.raises(networks_doc.NetworksDocError, match=r"medseg\.networks\.unet\.Nothing cannot be measured"):
        networks_doc.networks_doc()
