"""The rules of a plan, one by one, on fingerprints made by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from medseg.bundle import networks
from medseg.data.case_facts import CaseFacts
from medseg.data.fingerprint import Fingerprint
from medseg.studies import plan_rules
from medseg.studies.plan_network import candidates
from medseg.studies.plan_rules import PlanError


def case(**changes: Any) -> CaseFacts:
    facts: dict[str, Any] = {
        "shape": (40, 50, 40), "spacing": (1.0, 1.0, 1.0), "codes": "RAS", "channels": 1, "dtype": "int16",
        "equal_channels": False, "quantiles": (tuple(range(11)),), "foreground": (tuple(range(11)),),
        "voxels": (900, 100), "parts": (1, 1),
    }  # fmt: skip
    return CaseFacts(**facts | changes)


def found(*cases: CaseFacts, **changes: Any) -> Fingerprint:
    facts: dict[str, Any] = {
        "data": "x", "name": "d", "modality": ("MR",), "classes": ("background", "organ"), "background": 0,
    }  # fmt: skip
    return Fingerprint(**facts | changes, cases=cases or (case(),))


def picture(**changes: Any) -> CaseFacts:
    return case(**{"shape": (256, 320), "spacing": None, "codes": "", "dtype": "uint8"} | changes)


def row(low: float, middle: float, high: float) -> tuple[tuple[float, ...]]:
    """Return quantiles of one channel; percentiles 0.5 and 99.5 are ``low`` and ``high``."""
    return ((low - 1, low, low, low, low, middle, high, high, high, high, high + 1),)


def test_spacing_is_the_median_of_each_axis() -> None:
    cases = [case(spacing=(edge, 1.0, 2.0)) for edge in (0.5, 0.8, 5.0)]
    assert plan_rules.spacing(found(*cases)).value == [0.8, 1.0, 2.0]


def test_distance_of_thick_slices_is_the_tenth_percentile() -> None:
    cases = [case(spacing=(1.0, 1.0, float(edge))) for edge in range(4, 15)]
    chosen = plan_rules.spacing(found(*cases))
    assert chosen.value == [1.0, 1.0, 5.0]  # of 4, 5 ... 14
    assert "along S, where slices are thick" in chosen.why


def test_thick_slices_are_never_made_thinner_than_the_other_edges() -> None:
    cases = [case(spacing=(1.0, 1.0, edge)) for edge in (0.2, 0.2, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0)]
    assert plan_rules.spacing(found(*cases)).value == [1.0, 1.0, 1.0]


def test_pictures_and_stacks_keep_their_pixels() -> None:
    assert plan_rules.spacing(found(picture())).value is None
    assert plan_rules.spacing(found(case(), case(spacing=None, codes=""))).value is None


@pytest.mark.parametrize(
    ("edges", "plane", "kept"),
    [
        ((1.0, 1.0, 1.0), "axial", 2),
        ((1.05, 1.0, 1.0), "axial", 2),  # no longer but for the rounding of headers
        ((0.5, 0.5, 7.5), "axial", 2),
        ((0.5, 3.0, 0.5), "coronal", 1),
        ((3.0, 0.5, 1.0), "sagittal", 0),
    ],
)
def test_slices_lie_across_the_longest_edge(edges: tuple[float, ...], plane: str, kept: int) -> None:
    data = found(case(spacing=edges, shape=(10, 20, 30)))
    seen = plan_rules.plane(data, 2)
    assert seen is not None
    assert seen.value == plane
    wanted = plan_rules.spacing(data, seen).value
    assert wanted == [None if axis == kept else edge for axis, edge in enumerate(edges)]
    assert list(plan_rules.resampled(data, wanted)) == [10, 20, 30]
    assert plan_rules.across([10, 20, 30], seen) == [edge for axis, edge in enumerate((10, 20, 30)) if axis != kept]
    assert plan_rules.mirrors(data, seen).value == ([] if plane == "sagittal" else [0])
    assert plan_rules.plane(data, 3) is None
    assert plan_rules.across([10, 20, 30], None) == [10, 20, 30]


@pytest.mark.parametrize(("axis", "plane"), [(0, "sagittal"), (1, "coronal"), (2, "axial")])
def test_volumes_of_one_slice_are_seen_as_that_slice(axis: int, plane: str) -> None:
    """By the edges of their voxels, which are longer in the slice, a 2D network saw lines of one pixel."""
    shape, edges = ([48, 40, 30], [2.0, 2.0, 2.0])
    shape[axis], edges[axis] = 1, 1.0
    data = found(*(case(shape=tuple(shape), spacing=tuple(edges)) for _ in range(3)))
    assert [plan_rules.dimensions(data, asked).value for asked in (None, 2, 3)] == [2, 2, 3]
    seen = plan_rules.plane(data, 2)
    assert seen is not None
    assert seen.value == plane
    assert plan_rules.across(shape, seen) == [edge for edge in shape if edge > 1]
    thick = found(case(shape=tuple(shape), spacing=tuple(edges)), case(spacing=tuple(edges)))
    assert plan_rules.dimensions(thick, None).value == 3


def test_slices_are_resampled_in_their_plane_alone() -> None:
    data = found(*(case(spacing=(0.5 * edge, 1.0, 4.0 * edge), shape=(30, 20, 10)) for edge in (1, 1, 2)))
    seen = plan_rules.plane(data, 2)
    assert plan_rules.spacing(data, seen).value == [0.5, 1.0, None]
    assert list(plan_rules.resampled(data, [1.0, 1.0, None])) == [15, 20, 10]


def test_where_a_model_keeps_the_voxels_of_files_they_count_as_their_median() -> None:
    data = found(*(case(spacing=(1.0, 2.0, edge)) for edge in (4.0, 5.0, 9.0)))
    assert plan_rules.voxel(data, [1.5, None, 1.5], None) == [1.5, 2.0, 1.5]
    assert plan_rules.voxel(data, None, None) == [1.0, 2.0, 5.0]
    assert plan_rules.voxel(data, [1.5, None, None], plan_rules.plane(data, 2)) == [1.5, 2.0]
    assert plan_rules.voxel(found(case(spacing=None, codes="")), None, None) is None
    assert plan_rules.voxel(found(picture(spacing=(1.0, 1.0))), None, None) is None
    assert candidates("unet", [40, 40, 20], [40, 40, 20], [1.0, 2.0, 5.0])[0].network["strides"][0] == [2, 1, 1]


def test_edges_are_those_after_resampling() -> None:
    cases = [case(shape=(10, 20, 30), spacing=(2.0, 1.0, 0.5)), case(shape=(10, 20, 30), spacing=(2.0, 1.0, 0.5))]
    assert list(plan_rules.resampled(found(*cases), [1.0, 1.0, 1.0])) == [20, 20, 15]


@pytest.mark.parametrize(
    ("edges", "voxel", "patch", "strides"),
    [  # the hippocampus: nnU-Net's published plan has patch 40 x 56 x 40 and these three poolings
        ((35, 50, 36), (1.0, 1.0, 1.0), [40, 56, 40], [[2, 2, 2]] * 3),
        ((256, 256, 12), (0.5, 0.5, 5.0), [256, 256, 12], [[2, 2, 1]] * 3 + [[2, 2, 2]] + [[2, 2, 1]]),
        ((20, 20, 2), (1.0, 1.0, 20.0), [20, 20, 2], [[2, 2, 1]] * 2),
        ((7, 7), None, [8, 8], [[2, 2]]),
    ],
)
def test_levels(edges: Any, voxel: Any, patch: list[int], strides: list[list[int]]) -> None:
    assert plan_rules.levels(edges, voxel) == (patch, strides)


@pytest.mark.parametrize("network", ["unet", "lfa_unet", "attention_unet"])
@pytest.mark.parametrize("edges", [(5, 7), (1, 1), (7, 6, 5), (1, 4, 4)])
def test_images_smaller_than_two_levels_can_be_planned(network: str, edges: tuple[int, ...]) -> None:
    tried = candidates(network, edges, edges, None)[-1]
    made = networks.create(in_channels=1, out_channels=2, **tried.network).eval()
    assert made(torch.zeros(1, 1, *tried.patch)).shape == (1, 2, *tried.patch)


def test_every_level_keeps_four_voxels() -> None:
    for edges in [(200, 130, 17), (9, 8, 8), (64, 300, 5)]:
        patch, strides = plan_rules.levels(edges, (0.7, 0.9, 4.1))
        for axis, edge in enumerate(patch):
            for stride in strides:
                assert edge % stride[axis] == 0
                edge //= stride[axis]
            assert edge >= min(4, edges[axis])


def test_smaller_patches_end() -> None:
    sizes, size = [], [192, 160, 20]
    while size is not None:
        sizes.append(size)
        size = plan_rules.smaller(size, (200, 200, 20))  # type: ignore[assignment]
    assert sizes[:3] == [[192, 160, 20], [192, 160, 16], [144, 160, 16]]  # what is largest beside the image goes first
    assert sizes[-1] == [16, 16, 16]
    assert len(sizes) < 40
    volumes = [a * b * c for a, b, c in sizes]
    assert volumes == sorted(volumes, reverse=True)


def test_smaller_pictures_keep_their_shape() -> None:
    assert plan_rules.smaller([256, 320], (256, 320)) == [217, 272]
    assert plan_rules.smaller([16, 18], (256, 320)) == [16, 16]
    assert plan_rules.smaller([16, 16], (256, 320)) is None


def test_a_ct_has_one_window_for_all_volumes() -> None:
    cases = [case(quantiles=row(-1000, 0, 900), foreground=row(low, 50, low + 200)) for low in (-60.0, -60.0)]
    assert plan_rules.intensity(found(*cases, modality=("CT",))).value == {
        "scheme": "range", "low": pytest.approx(-60.0), "high": pytest.approx(140.0), "clip": True,
    }  # fmt: skip


@pytest.mark.parametrize("modality", ["MR", "CTA-like MR", "PET"])
def test_what_is_no_ct_is_scaled_image_by_image(modality: str) -> None:
    chosen = plan_rules.intensity(found(case(quantiles=row(-1000, 0, 900)), modality=(modality,)))
    assert chosen.value == {"scheme": "zscore"}


def test_a_picture_of_a_ct_has_no_hounsfield_units() -> None:
    slices = [picture(quantiles=row(0, 90, 250)), picture(quantiles=row(5, 80, 240))]
    chosen = plan_rules.intensity(found(*slices, modality=("CT",)))
    assert chosen.value == {"scheme": "range", "low": 0, "high": 255}


def test_pictures_of_unlike_contrast_are_scaled_one_by_one() -> None:
    unlike = [picture(quantiles=row(0, 5, 20)), picture(quantiles=row(0, 90, 250))]
    assert plan_rules.intensity(found(*unlike)).value == {"scheme": "percentiles"}
    wide = [replace(each, dtype="uint16") for each in unlike]
    assert plan_rules.intensity(found(*wide)).value == {"scheme": "percentiles"}


def test_a_skull_stripped_volume_is_scaled_without_its_zeros() -> None:
    assert plan_rules.intensity(found(case(quantiles=row(0, 5, 20)))).value == {"scheme": "zscore", "nonzero": True}


def test_polarity_only_where_objects_are_on_both_sides() -> None:
    bright = picture(quantiles=row(0, 50, 200), foreground=row(90, 150, 200))
    dark = picture(quantiles=row(0, 150, 200), foreground=row(0, 40, 90))
    assert plan_rules.polarity(found(bright, dark)).value == "bright"
    assert plan_rules.polarity(found(bright, bright)).value is None
    assert plan_rules.polarity(found(dark)).value is None
    assert plan_rules.polarity(found(bright, dark, background=None)).value is None
    assert plan_rules.polarity(found(*[bright] * 30, dark)).value is None  # one odd image in thirty


def test_polarity_only_where_turning_brings_objects_to_one_side() -> None:
    """In a slice of a CT, an opacity is brighter than lung alone, and darker than a chest wall that fills the slice."""
    air, wall = (picture(quantiles=row(0, median, 250), foreground=row(90, 130, 200)) for median in (60, 200))
    assert plan_rules.polarity(found(air, wall)).value == "bright"
    turned = picture(quantiles=row(0, 140, 250), foreground=row(90, 150, 200))  # brighter, and its negative is not
    chosen = plan_rules.polarity(found(*[air] * 12, *[wall] * 5, *[turned] * 3))
    assert chosen.value is None
    assert "brighter than the rest in 75 % of the images" in chosen.why
    assert "would leave them darker in 15 %" in chosen.why


def test_bytes_that_hold_few_values_have_no_scale_of_255() -> None:
    masks = picture(quantiles=((0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1),))
    assert plan_rules.intensity(found(masks, masks)).value == {"scheme": "percentiles"}
    for dtype in ("uint8", "float32"):  # of its ones alone, each by mean and deviation, nothing would be left
        volume = case(dtype=dtype, quantiles=masks.quantiles)
        assert plan_rules.intensity(found(volume)).value == {"scheme": "zscore"}
    usual = picture(quantiles=row(20, 90, 200))
    assert plan_rules.intensity(found(usual)).value == {"scheme": "range", "low": 0, "high": 255}


def test_colour_of_pictures() -> None:
    grey, coloured = picture(channels=4, alpha=True, equal_channels=True), picture(channels=3)
    assert plan_rules.colour(found(picture())).value is None
    assert plan_rules.colour(found(*[grey] * 20, coloured)).value == "grey"
    assert plan_rules.colour(found(grey, coloured)).value == "rgb"
    assert plan_rules.colour(found(case(channels=4))).value is None
    assert plan_rules.colour(found(picture(channels=4))).value is None  # of four stains


@pytest.mark.parametrize(
    ("facts", "axes"),
    [
        ({}, [0]),
        ({"classes": ("background", "left kidney", "right_kidney")}, []),
        ({"classes": ("background", "Left-Hippocampus", "Right-Hippocampus")}, []),
        ({"classes": ("background", "LeftLung", "RightLung")}, []),
        ({"classes": ("background", "lung (left)", "lung (right)")}, []),
        ({"classes": ("background", "femur_L", "femur_R")}, []),
        ({"classes": ("background", "ctx-lh-cuneus", "ctx-rh-cuneus")}, []),
        ({"classes": ("background", "LK", "RK")}, []),
        ({"classes": ("background", "rib_L1", "rib_R1")}, []),
        ({"classes": ("background", "lkidney", "rkidney")}, []),
        ({"classes": ("background", "Niere rechts", "liver")}, []),
        ({"classes": ("background", "femur_dx", "femur_sin")}, []),
        ({"classes": ("background", "L1", "L2", "liver", "kidney")}, [0]),
        ({"classes": ("background", "vertebra L1", "bright spot", "cleft")}, [0]),
        ({"classes": ("background", "l")}, [0]),
        ({"modality": ("photograph",)}, [1]),
        ({"modality": ("ssTEM",)}, [0, 1]),
        ({"modality": ("H&E histology",)}, [0, 1]),
    ],
)
def test_mirrors(facts: dict[str, Any], axes: list[int]) -> None:
    image = picture() if "modality" in facts else case()
    assert plan_rules.mirrors(found(image, **facts)).value == axes


def test_stacks_without_a_patient_are_not_mirrored() -> None:
    assert plan_rules.mirrors(found(case(codes="", spacing=None))).value == []


def test_volumes_have_slices_but_pictures_are_no_volumes() -> None:
    assert plan_rules.dimensions(found(), None).value == 3
    assert plan_rules.dimensions(found(), 2).value == 2
    assert plan_rules.dimensions(found(picture()), 2).value == 2
    with pytest.raises(
        PlanError, match=r"--dimensions 2: volumes of d say nothing of their axes .* store them as NIfTI"
    ):
        plan_rules.dimensions(found(case(codes="", spacing=None)), 2)
    with pytest.raises(PlanError, match="--dimensions 3: the images of d are pictures"):
        plan_rules.dimensions(found(picture()), 3)


def test_rare_kinds_of_pictures_are_drawn_more_often_and_all_are_said() -> None:
    bright = picture(foreground=((9.0,) * 11,))
    chosen = plan_rules.balance(found(*[bright] * 9, picture()))
    assert chosen.value == 0.5
    assert "9 grey, bright objects, 1 grey, dark objects" in chosen.why
    assert plan_rules.balance(found(bright, bright)).why == "all pictures are of one kind"
    assert "volumes" in plan_rules.balance(found(case(), case(codes="LPS"))).why


def test_several_classes_of_pictures_are_looked_for_more_often() -> None:
    three = {"classes": ("background", "ground glass", "consolidation")}
    assert plan_rules.foreground(found(picture())).value == 0.33
    assert plan_rules.foreground(found(picture(), **three)).value == 0.67
    assert plan_rules.foreground(found(case(), **three)).value == 0.33  # volumes
    assert plan_rules.foreground(found(picture(), **three, background=None)).value == 0
