"""A model of three organs, a mask that no turning keeps, and series that lie in every way."""

import numpy as np
import torch
from dicom_series import AXIAL, OBLIQUE, write_series

from medseg.bundle.description import Description
from medseg.bundle.networks import create
from medseg.bundle.record import header_of
from medseg.prediction.dicom_objects import Algorithm
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

CLASSES = ["background", "kidney_left", "liver_tumor", "spleen"]  # no voxel is of the last
ALGORITHM = Algorithm("lfa_unet", "0123456789abcdef" * 4)
GEOMETRIES = {
    "axial": {"turn": AXIAL, "spacing": (0.7, 0.7)},
    "flipped": {"turn": ((-1.0, 0, 0), (0, 1.0, 0))},
    "sagittal": {"turn": ((0, 1.0, 0), (0, 0, -1.0))},
    "oblique": {"turn": OBLIQUE},
    "anisotropic": {"turn": AXIAL, "spacing": (0.4, 1.3), "distances": [0, 5, 10, 15, 20, 25]},
}


def description(**more):
    network = {"name": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": len(CLASSES)}
    return Description.of({"name": "lfa_unet", "network": network, "classes": CLASSES, **more})


def series(folder, *, distances=(6, 0, 4, 2, 10, 8), **options):
    return write_series(folder, list(distances), **options)


def mask_of(shape):
    """Two classes that no mirroring keeps, none in the first and last slices, a single voxel in a corner."""
    mask = np.zeros(shape, np.uint8)
    mask[3:9, 2:7, 1:4] = 1
    mask[12:20, 4:14, 2:5] = 2
    mask[0, 0, 2], mask[5, 4, 2], mask[8, 6, 3] = 2, 2, 0
    return mask


def on_grid(image, affine, shape):
    """Put the voxels of another tool's image, which may be a part, onto a grid by where they lie."""
    points = np.argwhere(image.array > 0)
    patient = points @ image.affine[:3, :3].T + image.affine[:3, 3]
    places = (patient - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    assert np.abs(places - places.round()).max(initial=0) < 0.02
    mask = np.zeros(shape, bool)
    mask[tuple(places.round().astype(int).T)] = True
    assert mask.sum() == len(points)
    return mask


def weights(path, classes=("background", "liver", "thing"), **more):
    """Write a tiny network whose classes all occur in noise."""
    network = create("unet", 3, 1, len(classes), channels=[4, 8], seed=0).eval()
    *_, last = (module for module in network.modules() if isinstance(module, torch.nn.Conv3d))
    with torch.no_grad():
        logits = network(torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)))
        last.bias -= logits.flatten(2).median(2).values[0]
    content = {"name": "toy", "classes": list(classes), "input": {"intensity": {"scheme": "image"}}, **more}
    described = Description.of({**content, "network": network.recipe})
    save_checkpoint(write_header(network.state_dict(), header_of(described)), path)
    return path
