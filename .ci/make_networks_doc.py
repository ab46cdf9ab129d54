"""Write docs/networks.md: every network, its paper and its cost."""

from pathlib import Path

from medseg.studies.networks_doc import networks_doc

Path(__file__).parents[1].joinpath("docs", "networks.md").write_text(networks_doc(), encoding="utf-8")
