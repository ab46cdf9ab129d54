"""No network is left out of the comparisons with references: what a paper describes, or a library's own network.

A reference takes the weights of ours, so that one layer too few, too many or in another order shows.
"""

import ast
import importlib
from pathlib import Path

import pytest

from medseg.bundle import discovery

TESTS = Path(__file__).parents[1]
PAPERS, SCENES = "networks/test_paper_references.py", "networks/test_scene_references.py"
SCALES = "networks/test_multi_scale.py"
REFERENCES = {
    "AttentionToScale": (SCALES, "test_rows_of_table_2_equal_their_definition"),
    "AttentionUNet": (PAPERS, "test_attention_unet"),
    "BCDUNet": (PAPERS, "test_bcdu_net"),
    "DFDAM": ("networks/test_df_dam.py", "test_equals_the_definition"),
    "DeepLabLargeFOV": ("networks/test_deeplab_largefov.py", "test_equals_the_definition"),
    "DeepLabV3Plus": (SCENES, "test_deeplabv3_plus"),
    "DilatedResNet": ("networks/test_dilated_resnet.py", "test_equals_torchvisions"),
    "DynUNet": ("networks/test_dynunet.py", "test_it_is_monais"),
    "EMANet": (SCENES, "test_emanet"),
    "FCN8s": (PAPERS, "test_fcn8s"),
    "FocusNet": ("networks/test_focusnet.py", "test_equals_the_definition"),
    "FocusNetPP": ("networks/test_focusnet_pp.py", "test_equals_the_definition"),
    "LFAUNet": (PAPERS, "test_lfa_unet"),
    "MFNet": (SCENES, "test_mfnet"),
    "MultiScalePooling": (SCALES, "test_pooling_equals_its_definition"),
    "MultiScaleRefinement": (SCALES, "test_rows_of_table_2_equal_their_definition"),
    "PSPNet": ("networks/test_psp_net.py", "test_equals_the_definition"),
    "R2UNet": (PAPERS, "test_r2unet"),
    "SAUNet": (PAPERS, "test_sa_unet"),
    "SegResNet": ("networks/test_segresnet.py", "test_it_is_monais"),
    "SelfAttentionUNet": (PAPERS, "test_self_attention_unet"),
    "UNet": ("layers/test_unet.py", "test_equals_the_definition"),
    "UNetPP": (PAPERS, "test_unet_pp"),
}
"""Of each class the file and the function of its comparison."""
NETWORKS = sorted(
    kind
    for module in discovery.modules()
    for kind in discovery.networks_of(importlib.import_module(f"{discovery.PACKAGE}.{module}"))
)


def test_those_of_the_package_have_one_and_no_others() -> None:
    assert sorted(REFERENCES) == NETWORKS, "compare a new network with a reference over its own weights; name the test"


@pytest.mark.parametrize("network", REFERENCES)
def test_it_is_there_builds_the_network_and_compares(network: str) -> None:
    file, name = REFERENCES[network]
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    mentioned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert name in functions, f"{file} has no {name}"
    assert network in mentioned, f"{file} never builds {network}"
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(functions[name])
        if isinstance(node, ast.Call)
    }
    assert called & {"agree", "assert_close"}, f"{name} of {file} compares nothing"
