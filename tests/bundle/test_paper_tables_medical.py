"""Every row of the tables of LFA U-Net and FocusNet++ has a command: bundle and overlays build what the row names."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from parsed_once import Parser
from torch import nn

from medseg.bundle import library
from medseg.bundle.networks import create
from medseg.engines.schedule import Schedule
from medseg.studies.complexity import build
from medseg.studies.paper_figures import ROWS

ROOT = Path(__file__).parents[2]
LFA, FOCUS = "LFA U-Net", "FocusNet++"
NEAR = 0.07  # of the printed parameters; docs/networks.md has both, and says where the print is in doubt


@dataclass(frozen=True)
class Printed:
    """A row as it is printed, and how it is trained here.

    Args:
        paper: and table.
        label: of the row.
        bundle: that trains it.
        overlays: put on with ``--with``.
        network: class that they build.
        options: of its constructor that tell the row from others.
        like: label of the same row in `ROWS`, where that has it.
        millions: of parameters as printed, in the column that docs/networks.md takes for them.
    """

    paper: str
    label: str
    bundle: str
    overlays: tuple[str, ...]
    network: str
    options: dict[str, Any]
    like: str = ""
    millions: float | None = None


def compared(table: str, bundle: str) -> list[Printed]:
    """Tables 1 and 2 of LFA U-Net: six networks, each at the widths of the U-Net."""
    names: list[tuple[Any, ...]] = [
        ("U-net", ("unet",), "UNet", {}, "U-Net"),
        ("Attention U-Net", ("attention_unet",), "AttentionUNet", {}, "Attention U-Net"),
        ("RU-Net (time-step=2)", ("r2unet",), "R2UNet", {"time_steps": 2}, "R2U-Net (t = 2)"),
        ("SA-UNet", ("sa_unet",), "SAUNet", {}, "SA-UNet"),
        ("U-net + self-attention", ("self_attention_unet",), "SelfAttentionUNet", {}, "U-Net + self-attention"),
        ("U-net with ours", (), "LFAUNet", {}, "LFA U-Net"),
    ]
    return [Printed(f"{LFA}, table {table}", label, bundle, *row) for label, *row in names]


def ablated(table: str, rows: dict[str, tuple[str, ...]], option: str, values: list[Any]) -> list[Printed]:
    """Tables 3 and 4 of LFA U-Net, on the COVID-19 slices; an option that is not set is the network's default."""
    return [
        Printed(f"{LFA}, table {table}", label, "lfa_unet_covid", overlays, "LFAUNet", {option: value})
        for (label, overlays), value in zip(rows.items(), values, strict=True)
    ]


def focus(table: str, bundle: str, rows: list[tuple[Any, ...]]) -> list[Printed]:
    return [Printed(f"{FOCUS}, table {table}", label, bundle, *row) for label, *row in rows]


HALF, QUARTER = [32, 64, 128, 256, 512], [16, 32, 64, 128, 256]
WINDOWS = {"3": ("window_3",), "5": ("window_5",), "7": (), "9": ("window_9",), "11": ("window_11",)}
RESIDUALS = {"Encoder": (), "Decoder": ("residual_decoder",), "None": ("residual_none",)}
TABLES = [
    *compared("1", "lfa_unet_drosophila"),
    *compared("2", "lfa_unet_covid"),
    *ablated("3", WINDOWS, "window_size", [3, 5, 7, 9, 11]),
    *ablated("4", RESIDUALS, "residual", ["encoder", "decoder", "none"]),
    *focus("1", "focusnet_pp_isic2018", [
        ("FCN", ("fcn8s",), "FCN8s", {}),
        ("U-Net", ("unet",), "UNet", {"channels": HALF}),
        ("Wide UNet", ("wide_unet",), "UNet", {"channels": [35, 70, 140, 280, 560]}),
        ("R2U-Net", ("r2unet",), "R2UNet", {"channels": HALF}),
        ("BCU-Net", ("bcdu_net",), "BCDUNet", {}),
        ("UNet++", ("unet_pp",), "UNetPP", {}),
        ("Attn U-Net", ("attention_unet",), "AttentionUNet", {"channels": HALF}),
        ("FocusNet", ("focusnet",), "FocusNet", {}),
        ("FocusNet++", (), "FocusNetPP", {}),
    ]),
    *focus("2", "focusnet_pp_isic2018", [
        ("UNet", ("unet",), "UNet", {"channels": HALF}, "U-Net", 7.94),
        ("UNet++", ("unet_pp",), "UNetPP", {}, "UNet++", 9.04),
        ("BCDU-Net", ("bcdu_net",), "BCDUNet", {}, "BCDU-Net", 20.66),
        ("Attn U-Net", ("attention_unet",), "AttentionUNet", {"channels": HALF}, "Attention U-Net", 8.91),
        ("FocusNet", ("focusnet",), "FocusNet", {}, "FocusNet", 19.07),
        ("FocusNet++", (), "FocusNetPP", {}, "FocusNet++", 7.80),
    ]),
    *focus("3", "focusnet_pp_dsb2018", [
        ("U-Net", ("unet",), "UNet", {"channels": QUARTER}, "U-Net", 1.89),
        ("BCU-Net", ("bcdu_net",), "BCDUNet", {"channels": [32, 64, 128, 256]}, "BCDU-Net", 5.22),
        ("Attn U-Net", ("attention_unet",), "AttentionUNet", {"channels": QUARTER}, "Attention U-Net", 2.32),
        ("FocusNet", ("focusnet",), "FocusNet", {"channels": [32, 64, 128, 256]}, "FocusNet", 5.03),
        ("FocusNet++", (), "FocusNetPP", {"configuration": "light"}, "FocusNet++ light", 0.98),
    ]),
]  # fmt: skip
BESIDE = {(row.source, row.name): row for row in ROWS}
IN_OUT = {"lfa_unet_drosophila": (1, 5), "lfa_unet_covid": (1, 4)}  # the others: RGB, one sigmoid, as they are printed


def built(row: Printed) -> nn.Module:
    """The network of ``medseg train BUNDLE --with OVERLAYS``, with the paper's channels of input and output."""
    parser = Parser()
    files = library.config_files(ROOT / "bundles" / row.bundle, "train", list(row.overlays))
    parser.read_config([str(path) for path in files])
    given = {key: value for key, value in parser.get("network_def").items() if key not in ("_target_", "seed")}
    given["in_channels"], given["out_channels"] = IN_OUT.get(row.bundle, (3, 1))
    with torch.device("meta"):
        return create(**given)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("row", TABLES, ids=lambda row: f"{row.paper}-{row.label}")
def test_the_command_builds_what_the_row_names(row: Printed) -> None:
    network = built(row)
    assert type(network).__name__ == row.network
    recipe: Any = network.recipe
    for option, value in row.options.items():
        assert recipe.get(option, default_of(network, option)) == value
    if row.millions is not None:
        assert parameters(network) / 1e6 == pytest.approx(row.millions, rel=NEAR)


def default_of(network: nn.Module, option: str) -> Any:
    return inspect.signature(type(network)).parameters[option].default


def test_the_tables_are_whole() -> None:
    rows = [row.paper for row in TABLES]
    wanted = {(LFA, 1): 6, (LFA, 2): 6, (LFA, 3): 5, (LFA, 4): 3, (FOCUS, 1): 9, (FOCUS, 2): 6, (FOCUS, 3): 5}
    assert {(paper, table): rows.count(f"{paper}, table {table}") for paper, table in wanted} == wanted
    keys = [(row.paper, row.bundle, row.overlays) for row in TABLES]
    assert len(set(keys)) == len(keys), "two rows of a table would be one training"


@pytest.mark.parametrize("row", [row for row in TABLES if row.like], ids=lambda row: f"{row.paper}-{row.label}")
def test_overlays_and_the_figures_of_papers_name_the_same_network(row: Printed) -> None:
    """`medseg complexity --table` measures what the bundle trains, and prints the figure that is meant here."""
    source = f"{LFA}, table 1" if row.paper.startswith(LFA) else row.paper
    beside = BESIDE[source, row.like]
    assert beside.target.endswith(f".{row.network}")
    assert beside.paper_parameters == ("" if row.millions is None else f"{row.millions:.2f}")
    if row.bundle != "lfa_unet_covid":  # of which the figures have no row of their own: four classes in place of five
        assert parameters(built(row)) == parameters(build(beside, "meta"))


def test_every_figure_of_these_papers_is_a_row_here() -> None:
    named = {(row.paper, row.like) for row in TABLES}
    assert {key for key in BESIDE if key[0].startswith((LFA, FOCUS))} <= named


@pytest.mark.parametrize("row", [row for row in TABLES if row.overlays], ids=lambda row: f"{row.paper}-{row.label}")
def test_the_readme_says_which_overlay_is_which_table(row: Printed) -> None:
    text = (ROOT / "bundles" / row.bundle / "docs" / "README.md").read_text(encoding="utf-8")
    number = row.paper.rpartition(" ")[2]
    (line,) = [line for line in text.splitlines() if f"`{row.overlays[0]}`" in line.partition("|")[2].partition("|")[0]]
    assert re.search(rf"tables? (\d and )?{number}\b", line), line


@pytest.mark.parametrize(("bundle", "images"), [("focusnet_pp_isic2018", 1815), ("focusnet_pp_dsb2018", 540)])
def test_as_published_is_the_authors_recipe(bundle: str, images: int) -> None:
    """Keras counts epochs from 0: at most 15, 25 and 40 have the rates 1e-4, 1e-5 and 1e-6, later ones 1e-7."""
    parser = Parser()
    parser.read_config([str(p) for p in library.config_files(ROOT / "bundles" / bundle, "train", ["as_published"])])
    given = parser.get()
    assert (given["batch_size"], given["select_by"]) == (4, "val_loss")
    assert given["model"]["input"]["intensity"] == {"scheme": "image"}
    steps, epochs = images // given["batch_size"], given["max_epochs"]
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=given["learning_rate"])
    schedule = Schedule(optimizer, given["schedule"], epochs * steps, steps=given["schedule_steps"])
    for epoch in range(50):
        wanted = 1e-4 if epoch <= 15 else 1e-5 if epoch <= 25 else 1e-6 if epoch <= 40 else 1e-7
        assert [schedule.step(epoch * steps + at) for at in (0, steps - 1)] == pytest.approx([wanted] * 2)
    parser["loss#ignore_index"] = None
    assert parser.get_parsed_content("loss").smooth == 1
