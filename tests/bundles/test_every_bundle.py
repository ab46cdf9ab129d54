"""What every bundle keeps to: MONAI's commands from any folder, with the bundle copied elsewhere."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import jsonschema
import nibabel
import numpy as np
import pytest
import torch
import yaml
from bundles.helpers import (
    BUNDLES,
    DEPTH,
    SMALL_ENCODER,
    configs,
    monai_bundle,
    network_channels,
    small,
    small_network,
    takes_photographs,
    takes_volumes,
)
from PIL import Image

from medseg.bundle.networks import recipe_of
from medseg.bundle.record import read_weights
from medseg.bundle.source import read_source
from medseg.bundle.workflow import evaluate
from medseg.prediction.model import load
from medseg.prediction.predict import predict
from medseg.runs.mlflow_store import artifact_path

EXPORTED = ("lfa_unet_covid", "focusnet_pp_dsb2018", "df_dam_voc", "refine_multi_scale_voc")


def test_folder_is_complete(trained: Path) -> None:
    for name in ("LICENSE", "docs/README.md", "configs/metadata.json", "configs/logging.conf"):
        assert (trained / name).is_file(), name
    metadata = json.loads((trained / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert "medseg" in metadata["required_packages_version"]


def test_metadata_is_verified(trained: Path, tmp_path: Path) -> None:
    """MONAI's command, with a schema of the same demands from a file: the real one is on the network."""
    schema = Path(__file__).with_name("metadata_schema.json")
    jsonschema.Draft7Validator.check_schema(json.loads(schema.read_text()))
    metadata = json.loads((trained / "configs" / "metadata.json").read_text())
    assert metadata["schema"].startswith("https://github.com/Project-MONAI/")
    cases: list[tuple[dict[str, Any], bool]] = [({}, True)]
    if trained.name == BUNDLES[0].name:  # once: the schema does refuse
        cases.append(({"monai_version": 1}, False))
    for change, ok in cases:
        copy = tmp_path / "metadata.json"
        copy.write_text(json.dumps({**metadata, **change, "schema": schema.as_uri()}))
        done = monai_bundle(
            "verify_metadata", cwd=tmp_path, ok=ok, meta_file=str(copy), filepath=str(tmp_path / "schema.json")
        )
        assert (done.returncode == 0) is ok
        (tmp_path / "schema.json").unlink()


def test_training_left_a_whole_run(trained: Path) -> None:
    run = trained / "runs" / "first"
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    wanted = {"config.yaml", "environment.json", "data.json", "metrics.jsonl", "curves.png", "model.pt"}
    wanted |= {"checkpoints/last.pt", "checkpoints/best.pt", "mlflow_run.json"}
    wanted |= {f"report/{n}" for n in ("scores.json", "table.md", "table.csv", "confusion_matrix.png", "overlays.png")}
    assert wanted <= names
    assert (trained / "models" / "model.pt").read_bytes() == (run / "model.pt").read_bytes()  # asked for by publish
    config = yaml.safe_load((run / "config.yaml").read_text())
    described = read_weights(run / "model.pt").description
    assert described is not None
    for key, value in small_network(trained).items():
        name = key.removeprefix("network_def__")
        assert described.network[name] == config["model"]["network"][name] == value
    assert config["max_epochs"] == 2
    assert described.name == trained.name
    assert json.loads((run / "data.json").read_text())["fingerprint"]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own database models
def test_mlflow_holds_the_same(trained: Path) -> None:
    import mlflow

    held = json.loads((trained / "runs" / "first" / "mlflow_run.json").read_text())
    client = mlflow.MlflowClient(held["tracking_uri"])
    run = client.get_run(held["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["max_epochs"] == "2"
    assert run.data.params["model.network.name"]
    assert {"loss", "learning_rate", "images_per_second", "data_wait_share", "val_mean_iou"} <= set(run.data.metrics)
    assert len(client.get_metric_history(held["run_id"], "loss")) == 2
    assert "data.fingerprint" in run.data.params
    place = artifact_path(held["tracking_uri"], run.info.artifact_uri)
    assert place is not None
    assert {"config.yaml", "metrics.jsonl", "report", "model.pt"} <= set(os.listdir(place))
    assert {"overlays.png", "confusion_matrix.png"} <= set(os.listdir(place / "report"))


def test_evaluate(trained: Path, bundle_data: Path, tmp_path: Path) -> None:
    options = {k: v for k, v in small(trained).items() if k != "batch_size"}
    options["ckpt"] = str(trained / "models" / "model.pt")
    done = monai_bundle(
        "run",
        cwd=tmp_path,
        config_file=configs(trained, "train.yaml", "evaluate.yaml"),
        dataset_dir=str(bundle_data),
        output_dir=str(tmp_path / "scores"),
        **options,
    )
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    held = json.loads((tmp_path / "scores" / "data.json").read_text())
    assert (held["fold"], held["images"]) == (0, 4)
    assert held["seen"] == {"training": 0, "validation": 0, "runs_that_do_not_say": 0}  # by the run that published them
    depth = DEPTH if takes_volumes(trained) else 1
    assert np.sum(scores["overlap"]["confusion_matrix"]) == 4 * 32 * 32 * depth  # the test fold's four crops
    assert (tmp_path / "scores" / "overlays.png").is_file()
    assert done.stdout.count("pooled over all pixels") == 1  # the table, in the log


def test_inference_stands_alone(trained: Path, tmp_path: Path) -> None:
    """Only inference.yaml, metadata.json and the weights are there, as other hosts have it."""
    alone = tmp_path / "alone"
    (alone / "configs").mkdir(parents=True)
    for name in ("inference.yaml", "metadata.json"):
        (alone / "configs" / name).write_bytes((trained / "configs" / name).read_bytes())
    images, masks = tmp_path / "images", tmp_path / "masks"
    (images / "deep").mkdir(parents=True)
    names = ("a.nii.gz", "deep/b.nii.gz") if takes_volumes(trained) else ("a.png", "deep/b.tif")
    for name in names:
        _noise(images / name, network_channels(trained)[0])
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    fed = {key: value for key, value in small(trained).items() if key.startswith("model__")}
    options = {"dataset_dir": str(images), "output_dir": str(masks), "device": "cpu", **small_network(trained), **fed}
    options |= {"config_file": configs(alone, "inference.yaml"), "ckpt": str(trained / "models" / "model.pt")}
    first = monai_bundle("run", cwd=tmp_path, ok=False, **options)
    assert first.returncode != 0
    assert "1 of 3 images could not be done" in first.stderr
    assert "broken.png" in first.stderr
    assert "Traceback" not in first.stderr
    for name in names:
        if takes_volumes(trained):
            mask, image = (nibabel.load(folder / name) for folder in (masks, images))
            assert mask.shape == image.shape
            np.testing.assert_array_equal(mask.affine, image.affine)
            continue
        with Image.open(masks / name) as picture:
            assert picture.size == (270, 300)
            assert np.array(picture).max() < 256
    written = {str(p.relative_to(masks)) for p in masks.rglob("*") if p.is_file()}
    (record,) = (path.name for path in masks.glob("medseg_run_*.json"))
    assert written == {*names, "medseg_masks.json", record}
    (images / "broken.png").unlink()
    stamp = (masks / names[0]).stat().st_mtime_ns
    second = monai_bundle("run", cwd=tmp_path, **options)
    assert "2 images skipped, masks are there" in second.stdout + second.stderr
    assert (masks / names[0]).stat().st_mtime_ns == stamp


def _noise(path: Path, channels: int) -> None:
    """Write an image of noise: a picture, or a volume that lies askew with other voxels than 1 mm."""
    numbers = np.random.default_rng(0)
    if path.name.endswith(".nii.gz"):
        affine = np.array([[0, 0, 2.0, 5], [-1.5, 0, 0, 7], [0, 1.0, 0, -9], [0, 0, 0, 1]])
        nibabel.save(nibabel.Nifti1Image(numbers.integers(0, 256, (20, 30, 9), dtype=np.int16), affine), path)
        return
    noise = numbers.integers(0, 256, (300, 270, channels), dtype=np.uint8)
    Image.fromarray(noise[..., 0] if channels == 1 else noise).save(path)


def test_network_in_and_out(trained: Path, tmp_path: Path) -> None:
    monai_bundle(
        "verify_net_in_out",
        cwd=tmp_path,
        net_id="network_def",
        meta_file=str(trained / "configs" / "metadata.json"),
        config_file=configs(trained, "inference.yaml"),
        n=2,
        device="cpu",
        **small_network(trained),
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")  # what ckpt_export still writes
def test_exports_equal_the_network(trained: Path, tmp_path: Path) -> None:
    if trained.name not in EXPORTED:
        pytest.skip("one bundle of each kind is enough here: tests/networks exports every network")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install medseg[export])")
    weights = trained / "models" / "model.pt"
    channels, _ = network_channels(trained)
    x = torch.rand(1, channels, 64, 64)
    options = {
        "net_id": "network_def",
        "ckpt_file": str(weights),
        "meta_file": str(trained / "configs" / "metadata.json"),
        "config_file": configs(trained, "inference.yaml"),
        **small_network(trained),
    }
    monai_bundle("ckpt_export", cwd=tmp_path, filepath=str(tmp_path / "model.ts"), **options)
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):  # MONAI scripts there; see the README
        options["use_trace"] = True
    monai_bundle(
        "onnx_export", cwd=tmp_path, filepath=str(tmp_path / "model.onnx"), input_shape=list(x.shape), **options
    )
    network = _network(trained)
    with torch.no_grad():
        expected = network(x)
        script = torch.jit.load(tmp_path / "model.ts")
        torch.testing.assert_close(script(x), expected, rtol=1e-4, atol=1e-4)
        odd = torch.rand(2, channels, 50, 41)
        torch.testing.assert_close(script(odd), network(odd), rtol=1e-4, atol=1e-4)
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-4, atol=1e-4)


def _network(bundle: Path) -> torch.nn.Module:
    return load(bundle, device="cpu").networks[0]


def test_overlays_of_networks_build(trained: Path) -> None:
    """Every other network fits the bundle's data: same channels, same classes."""
    from monai.bundle import ConfigParser

    built = 0
    for name, changes in read_source(trained).overlays.items():
        if "network_def#name" not in changes:
            continue
        parser = ConfigParser()
        parser.read_config([str(trained / "configs" / f"{file}.yaml") for file in ("inference", name)])
        with torch.device("meta"):
            network = parser.get_parsed_content("network_def")
        recipe = recipe_of(network)
        assert (recipe["in_channels"], recipe["out_channels"]) == network_channels(trained), name
        assert recipe["name"] == changes["network_def#name"]
        built += 1
    assert built or "df_dam" in trained.name or trained.name == "unet_drosophila"


def test_commands_of_medseg(trained: Path, bundle_data: Path, tmp_path: Path) -> None:
    """A run is scored and predicts with nothing retyped, and says what MONAI's evaluation says."""
    run = trained / "runs" / "first"
    scores = evaluate(run, output=tmp_path / "scores").scores
    held = json.loads((tmp_path / "scores" / "data.json").read_text())
    assert (held["fold"], held["images"]) == (0, 4)
    assert 0 <= scores["mean_iou"] <= 1
    outcome = predict(run, bundle_data / "images", tmp_path / "masks", overrides={"device": "cpu"})
    assert (outcome.written, outcome.failures, outcome.left_out) == (20, [], [])


@pytest.mark.parametrize("bundle", [path for path in BUNDLES if takes_photographs(path)], ids=lambda path: path.name)
def test_overlays_fit_the_loss(bundle: Path) -> None:
    """Networks of scenes give different outputs: each overlay's loss names those that its network has."""
    from monai.bundle import ConfigParser

    overlays = [name for name, sets in read_source(bundle).overlays.items() if "network_def#name" in str(sets)]
    overlays += ["no_recalibration"] if "refine" in bundle.name else ["sum"] if "df_dam" in bundle.name else []
    assert overlays
    for name in overlays:
        parser = ConfigParser()
        parser.read_config([str(bundle / "configs" / f"{file}.yaml") for file in ("train", name)])
        classes = 5
        parser["encoder_weights"] = "random"
        parser["network_def#encoder"] = SMALL_ENCODER
        parser["network_def#out_channels"] = classes
        parser["cross_entropy#ignore_index"] = 255
        network = parser.get_parsed_content("network_def").train()
        label = torch.randint(0, classes, (2, 1, 33, 33))
        label[:, :, :4] = 255
        loss = parser.get_parsed_content("loss")(network(torch.rand(2, 3, 33, 33)), {"label": label})
        assert torch.isfinite(loss), name
        loss.backward()
        handlers = parser["handlers"]
        assert bool(handlers) == hasattr(network, "factorise"), name


def test_the_command_line_itself(tmp_path: Path) -> None:
    """The other tests call it in a fork; here it is `python -m monai.bundle` as a user types it."""
    bundle = BUNDLES[0]
    done = monai_bundle(
        "run",
        cwd=tmp_path,
        ok=False,
        launcher=(sys.executable, "-m"),
        config_file=configs(bundle, "train.yaml"),
        dataset_dir=str(tmp_path / "nowhere"),
        output_dir=str(tmp_path / "run"),
    )
    assert done.returncode == 1
    assert "no such datalist" in done.stderr
    assert "Traceback" not in done.stderr
