"""The page of the rules names the numbers that the code has."""

from pathlib import Path

import pytest

from medseg.data import case_facts
from medseg.studies import plan, plan_arguments, plan_doubts, plan_network, plan_rules

PAGE = (Path(__file__).parents[2] / "docs" / "plans.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "said",
    [
        f"more than {plan_rules.ANISOTROPIC:g} times",
        f"{ {'unet': 'U-Net'}[plan.DEFAULT_NETWORK] }, unless `--network` names another",
        f"reach below {plan_rules.CT_AIR:g}",
        f"at most {plan_rules.LARGEST_PATCH[2]} pixels or {plan_rules.LARGEST_PATCH[3]} voxels",
        f"keeps {plan_rules.LEAST_EDGE} voxels",
        f"at most {plan_rules.MOST_LEVELS[2]} levels in 2D, {plan_rules.MOST_LEVELS[3]} in 3D",
        f"{', '.join(map(str, plan_network.BASES[:-1]))} and {plan_network.BASES[-1]} channels",
        f"at most {plan_arguments.MOST_CHANNELS[2]} in 2D and {plan_arguments.MOST_CHANNELS[3]} in 3D",
        f"of which the minutes hold {plan_network.wanted_steps(2)}, or {plan_network.STEPS} for each class",
        f"{100 * plan_network.SHARE:.0f} % of the minutes",
        f"records in {plan._RECORDS} epochs",
        f"{100 * plan._SAVING:.0f} % of the minutes at {plan._WRITTEN / 1e6:.0f} MB/s",
        f"even sample of {case_facts._SAMPLE} voxels",
        f"AdamW at {plan._LEARNING_RATE:g}",
        f"fewer than {plan_doubts.FEW_STEPS} steps",
        f"fewer than {plan_rules.LEAST_EDGE} slices",
        f"voxels are {plan_doubts.THICK:g} times as long",
    ],
)
def test_a_number_of_the_rules_stands_there(said: str) -> None:
    assert said in PAGE
