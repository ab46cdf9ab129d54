"""What no network is built from, by message."""

import pytest

from medseg.layers.network_options import check_network_options

GOOD: dict[str, object] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "act": "relu",
    "norm": "batch",
    "dropout": 0,
}


@pytest.mark.parametrize(
    "options",
    [{}, {"spatial_dims": 3}, {"norm": None}, {"act": ("leakyrelu", {"negative_slope": 0.1}), "dropout": 0.99}],
)
def test_good_options_pass(options: dict[str, object]) -> None:
    check_network_options(**(GOOD | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims is 4; choose 2 or 3"),
        ({"in_channels": 0}, "in_channels is 0, out_channels is 1"),
        ({"out_channels": 0}, "in_channels is 1, out_channels is 0"),
        ({"dropout": 1}, r"dropout is 1; it must be in \[0, 1\)"),
        ({"dropout": -0.5}, "dropout is -0.5"),
        ({"act": ("rleu", {})}, "act is 'rleu'; choose one of .*relu"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of batch"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_network_options(**(GOOD | options))  # type: ignore[arg-type]
