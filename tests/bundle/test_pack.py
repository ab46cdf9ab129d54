"""A packed model: what it holds, that it predicts as its run does, and that opening one runs nothing."""

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from torch import nn

import medseg
from medseg.bundle import library
from medseg.bundle.description import Description
from medseg.bundle.evaluation import describe_weights
from medseg.bundle.networks import NetworkError, create, rebuild
from medseg.bundle.pack import About, pack
from medseg.bundle.pack_files import PackError
from medseg.bundle.record import header_of
from medseg.bundle.signature import SignatureError, verify
from medseg.bundle.unpack import opened, unpack
from medseg.cli import main
from medseg.errors import MedsegError
from medseg.prediction.model import ModelError, load
from medseg.prediction.predict import predict
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

SCHEMA = Path(__file__).parents[1] / "bundles" / "metadata_schema.json"
Files = dict[str, bytes]


def evaluate(folder: Path, digest: str) -> None:
    folder.mkdir()
    classes = [{"name": name, "iou": 0.5, "dice": 0.625, "precision": 0.5, "recall": 0.5} for name in "abc"]
    rows = [{**each, "support": 100} for each in classes]
    means = {f"mean_{name}": value for name, value in classes[0].items() if name != "name"}
    scores = {"averaging": "pooled over all pixels", "classes": rows, **means, "absent": []}
    (folder / "scores.json").write_text(json.dumps(scores))
    held = {"weights": {"sha256": digest}, "title": "Cells, test", "data": {"name": "Cells", "split": "test"}}
    (folder / "evaluation.json").write_text(json.dumps(held))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as a training leaves it, with scores of its weights and of others."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    network = create("unet", 2, 1, 3, channels=[4, 8], seed=0).eval()
    *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():  # so that every class occurs
        logits = network(torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
        last.bias -= logits.flatten(2).median(2).values[0]
    content = {"name": "cells", "classes": ["a", "b", "c"], "input": {"intensity": {"scheme": "range"}}}
    described = Description.of({**content, "network": network.recipe})
    folder.mkdir()
    header = {**header_of(described), "fingerprint": "f1" * 32}
    save_checkpoint(write_header(network.state_dict(), header), folder / "model.pt")
    (folder / "data.json").write_text(json.dumps({"name": "Cells", "fold": 0, "fingerprint": "f1" * 32}))
    config = {"dataset_dir": "/home/someone/data", "batch_size": 4, "encoder": {"weights": "/home/someone/w.pt"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    evaluate(folder / "test", describe_weights(folder / "model.pt")["sha256"])
    evaluate(folder / "earlier", "0" * 64)
    return folder


@pytest.fixture(scope="module")
def packed(run: Path) -> Path:
    return pack(run, run.parent / "cells.zip", About(licence="CC-BY-4.0", authors="A. Person")).path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "x.png")
    return tmp_path / "images"


def contents(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def written(files: Files, path: Path) -> Path:
    """Write a pack whose record fits its files, as somebody would who means harm."""
    record = json.loads(files["medseg.json"])
    others = {name: text for name, text in files.items() if name not in ("medseg.json", "medseg.json.sig")}
    record["files"] = {name: {"sha256": hashlib.sha256(text).hexdigest()} for name, text in others.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, "medseg.json": json.dumps(record).encode()}.items():
            archive.writestr(f"cells/{name}", text)
    return path


# ---------------------------------------------------------------------------------------------- what it is


def test_it_predicts_what_its_run_predicts(run: Path, packed: Path, images: Path, tmp_path: Path) -> None:
    expected = medseg.load(run, device="cpu").predict(images / "x.png").mask
    np.testing.assert_array_equal(medseg.load(packed, device="cpu").predict(images / "x.png").mask, expected)
    assert predict(packed, images, tmp_path / "masks", overrides={"device": "cpu"}).written == 1
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "masks" / "x.png")), expected)
    assert len(np.unique(expected)) == 3
    assert predict(run, images, tmp_path / "masks", overrides={"device": "cpu"}).skipped == 1  # the same maker


def test_the_modality_is_the_datalists_where_no_bundle_names_it(run: Path, packed: Path, tmp_path: Path) -> None:
    assert "| Modality | not named |" in contents(packed)["docs/README.md"].decode()
    moved = shutil.copytree(run, tmp_path / "moved")
    held = json.loads((moved / "data.json").read_text())
    (moved / "data.json").write_text(json.dumps({**held, "modality": ["T1", "T2"]}))
    card = contents(pack(moved, tmp_path / "named.zip").path)["docs/README.md"].decode()
    assert "| Modality | T1, T2 |" in card
    assert "| Split | all but fold 0 |" in card
    (moved / "data.json").write_text(json.dumps({**held, "modality": ["CT"], "fingerprint": "0" * 64}))  # of others
    assert "| Modality | not named |" in contents(pack(moved, tmp_path / "others.zip").path)["docs/README.md"].decode()


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # that a configuration is code
def test_monai_runs_it_unpacked(run: Path, packed: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    unpack(packed, folder)
    assert library.is_ours(folder)
    monai.bundle.run(
        config_file=str(folder / "configs" / "inference.yaml"),
        logging_file=False,
        bundle_root=str(folder),
        dataset_dir=str(images),
        output_dir=str(tmp_path / "masks"),
    )
    expected = medseg.load(run, device="cpu").predict(images / "x.png").mask
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "masks" / "x.png")), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")  # what ckpt_export still writes
@pytest.mark.filterwarnings("ignore:No hash value provided:UserWarning")
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_it_passes_the_model_zoo(packed: Path, tmp_path: Path) -> None:
    """What ci/verify_bundle.py of Project-MONAI/model-zoo does, with a schema of the same demands from a file."""
    folder = tmp_path / "bundle"
    unpack(packed, folder, pickled=True)
    for name in ("LICENSE", "docs/README.md", "configs/metadata.json"):
        assert (folder / name).is_file()
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert metadata["eval_metrics"] == {"mean_dice": 0.625, "mean_iou": 0.5}
    (tmp_path / "metadata.json").write_text(json.dumps({**metadata, "schema": SCHEMA.as_uri()}))
    monai.bundle.verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(tmp_path / "schema.json"))
    given: dict[str, Any] = {"net_id": "network_def", "meta_file": str(folder / "configs" / "metadata.json")}
    given |= {"config_file": str(folder / "configs" / "inference.yaml"), "bundle_root": str(folder)}
    monai.bundle.verify_net_in_out(device="cpu", **given)
    script = str(folder / "models" / "verify_model.ts")
    monai.bundle.ckpt_export(filepath=script, ckpt_file=str(folder / "models" / "model.pt"), **given)
    x = torch.rand(1, 1, 24, 17)
    network = medseg.load(packed, device="cpu").networks[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(script)(x), network(x), rtol=1e-4, atol=1e-5)


def test_what_is_in_it(run: Path, packed: Path, tmp_path: Path) -> None:
    files = contents(packed)
    everything = b"".join(files.values())
    for word in (b"someone", str(run).encode(), b"earlier"):  # no place of this machine, no scores of other weights
        assert word not in everything
    card = files["docs/README.md"].decode()
    for word in ("A. Person", "CC-BY-4.0", "f1" * 32, "0.625", "research; not for clinical decisions", "scheme range"):
        assert word in card
    assert b"batch_size: 4" in files["docs/training.yaml"]
    assert "CC-BY-4.0" in files["LICENSE"].decode()
    again = pack(run, tmp_path / "cells.zip", About(licence="CC-BY-4.0", authors="A. Person"))
    assert again.path.read_bytes() == packed.read_bytes()
    assert again.notes == ["earlier scored other weights, or these before they were changed: left out"]
    with opened(packed) as pack_:
        assert pack_.foreign() == []
    bare = pack(run / "model.pt", tmp_path / "bare.zip")
    assert any("no licence was named" in note for note in bare.notes)
    assert b"No licence was granted" in contents(bare.path)["LICENSE"]


def test_the_commands(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, use = str(tmp_path / "one.zip"), "counting; not for patients"
    assert main(["pack", str(run), "-o", target, "--licence", "MIT", "--intended-use", use]) == 0
    assert "no authors are named (--authors)" in capsys.readouterr().err
    assert use in contents(Path(target))["docs/README.md"].decode()
    assert main(["unpack", target]) == 0
    said = capsys.readouterr().out
    assert "licence MIT" in said
    assert said.endswith("checksums fit; not signed\ndata only\n")
    assert main(["unpack", target, str(tmp_path / "a")]) == 0
    assert main(["unpack", target, str(tmp_path / "a")]) == 2
    assert "exists already" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- who is trusted


def in_config(files: Files) -> None:
    files["configs/inference.yaml"] += b"- $__import__('pathlib').Path('ran').touch()\n"


def in_logging(files: Files) -> None:
    files["configs/logging.conf"] = files["configs/logging.conf"].replace(b"sys.stdout", b"__import__('os')")


def in_metadata(files: Files) -> None:
    files["configs/metadata.json"] = files["configs/metadata.json"].replace(b"A. Person", b"$1/0")


def in_title(files: Files) -> None:
    record = json.loads(files["medseg.json"])
    record["texts"]["title"] = "$__import__('pathlib').Path('ran').touch()"
    files["medseg.json"] = json.dumps(record).encode()


def beside(files: Files) -> None:
    files["scripts/__init__.py"] = b"raise SystemExit"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_config, "configs/inference.yaml is not what this medseg makes of its description"),
        (in_logging, "configs/logging.conf is not what"),
        (in_metadata, "configs/metadata.json is not what"),
        (in_title, "holds the text \"$__import__('pathlib')"),
        (beside, "scripts/__init__.py is no part of a packed model"),
    ],
)
def test_code_asks_first(
    packed: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Files], None],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    files = contents(packed)
    change(files)
    path = written(files, tmp_path / "cells.zip")
    with pytest.raises(PackError, match="is more than data") as caught:
        unpack(path, tmp_path / "bundle")
    assert said in str(caught.value)
    assert "trust" in str(caught.value)
    assert not (tmp_path / "bundle").exists()
    medseg.load(path, device="cpu").predict(images / "x.png")  # reads the weights and what they say, runs nothing
    unpack(path, tmp_path / "bundle", trust=True)
    assert not library.is_ours(tmp_path / "bundle")
    assert not (tmp_path / "ran").exists()
    if change in (in_config, in_logging, in_metadata):
        unpack(path, tmp_path / "renewed", renew=True)
        assert library.is_ours(tmp_path / "renewed")


def test_a_network_of_another_package_asks_first() -> None:
    recipe = {"name": "torch.nn.Identity", "spatial_dims": 2, "in_channels": 1, "out_channels": 1}
    with pytest.raises(NetworkError, match=r"names torch\.nn\.Identity, which is not a network of medseg or MONAI"):
        rebuild(recipe)
    assert isinstance(rebuild(recipe, trust=True), nn.Identity)
    with pytest.raises(NetworkError, match="which is not a network of medseg or MONAI"):
        rebuild({**recipe, "name": "antigravity.Network"})
    assert "antigravity" not in sys.modules  # not even imported, which runs a module


# ---------------------------------------------------------------------------------------------- what is refused


def test_changed_and_damaged(packed: Path, tmp_path: Path) -> None:
    files = contents(packed)
    record = files["medseg.json"]

    def refused(said: str, **changes: bytes | None) -> None:
        path = tmp_path / "x.zip"
        changed = {**files, **{name.replace("__", "/"): text for name, text in changes.items()}}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in changed.items():
                if text is not None:
                    archive.writestr(f"cells/{name}", text)
        with pytest.raises(MedsegError, match=said) as caught:
            medseg.load(path)
        assert "\n" not in str(caught.value)
        assert "x.zip" in str(caught.value)

    refused("LICENSE was changed after it was packed", LICENSE=b"yours")
    refused("LICENSE is missing", LICENSE=None)
    refused(r"docs/more is not in its medseg\.json", docs__more=b"")
    refused(r"holds no medseg\.json", **{"medseg.json": None})
    refused(r"medseg\.json cannot be read", **{"medseg.json": b"[]"})
    refused(r"medseg\.json cannot be read", **{"medseg.json": b"[" * 100_000})
    refused("has format 9, this medseg reads 1", **{"medseg.json": record.replace(b'"format": 1', b'"format": 9')})
    refused("leads outside the folder", **{"../../out": b""})
    refused("unpacks to more than", bomb=b"\0" * (1 << 27))
    weights = files["models/model.safetensors"]
    path = written({**files, "models/model.safetensors": weights[:-8]}, tmp_path / "cut.zip")
    with pytest.raises(MedsegError, match="may be truncated"):
        medseg.load(path)
    path = written({**files, "models/model.safetensors": weights[:-4] + b"\0\0\0\0"}, tmp_path / "other.zip")
    with pytest.raises(MedsegError, match="changed after their header was written"):
        medseg.load(path)
    shutil.copy(packed, tmp_path / "half.zip")
    with open(tmp_path / "half.zip", "r+b") as file:
        file.truncate(2000)
    with pytest.raises(MedsegError, match="damaged or incomplete"):
        medseg.load(tmp_path / "half.zip")


def test_scores_of_an_ensemble_are_not_those_of_a_member(run: Path, tmp_path: Path) -> None:
    """One that lies in the run's folder ended the packing; one that was named was no evaluation that can be read."""
    run = Path(shutil.copytree(run, tmp_path / "run"))
    both = Path(shutil.copytree(run / "earlier", run / "both"))
    record = json.loads((both / "evaluation.json").read_text())
    other = {"file": "model.pt", "sha256": "0" * 64, "run": "other"}
    for mine, among in ((describe_weights(run / "model.pt"), ""), (other, r", of which .*model\.pt is none")):
        members = [mine, {**other, "sha256": "1" * 64}]
        (both / "evaluation.json").write_text(json.dumps({**record, "weights": {"members": members}}))
        said = rf"both scored an ensemble of 2 models together{among}: one of them alone scores otherwise, .* score it"
        with pytest.raises(PackError, match=said):
            pack(run, tmp_path / "a.zip", About(scores=[both]))
    found = pack(run, tmp_path / "b.zip")
    assert "both scored an ensemble, not these weights alone: left out" in found.notes
    assert "no scores" not in str(found.notes)
    (both / "evaluation.json").write_text(json.dumps({**record, "weights": "x"}))
    with pytest.raises(PackError, match=r"both is no evaluation that can be read \(AttributeError\)"):
        pack(run, tmp_path / "a.zip", About(scores=[both]))


def test_what_cannot_be_packed(run: Path, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xa9 M\xfcller")
    (tmp_path / "empty").write_bytes(b"\n")
    for target, about, said in (
        (packed, About(), "exists already"),
        (tmp_path / "a b.zip", About(), "is no name for a pack"),
        (tmp_path / "a.tar", About(), "is no name for a pack"),
        (tmp_path / "a.zip", About(licence="no/such/file"), "neither a file nor an SPDX name"),
        (tmp_path / "a.zip", About(licence=str(tmp_path / "latin")), r"latin cannot be read \(it is no text of UTF-8"),
        (tmp_path / "a.zip", About(licence=str(tmp_path / "empty")), "empty is empty; name the licence's text"),
        (tmp_path / "a.zip", About(authors="$1/0"), "which MONAI's configurations would evaluate"),
        (tmp_path / "a.zip", About(scores=[run / "earlier"]), "scored other weights"),
        (tmp_path / "a.zip", About(scores=[run]), "is no evaluation that can be read"),
    ):
        with pytest.raises(PackError, match=said):
            pack(run, target, about)
    torch.save({"a": torch.zeros(1)}, tmp_path / "bare.pt")
    with pytest.raises(PackError, match="carries no record"):
        pack(tmp_path / "bare.pt", tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


# ---------------------------------------------------------------------------------------------- signatures


@pytest.mark.parametrize("kind", [serialization.PrivateFormat.OpenSSH, serialization.PrivateFormat.PKCS8])
def test_signed(run: Path, packed: Path, tmp_path: Path, kind: serialization.PrivateFormat) -> None:
    ssh = kind is serialization.PrivateFormat.OpenSSH
    for name in ("mine", "other"):
        key = Ed25519PrivateKey.generate()
        none = serialization.NoEncryption()
        (tmp_path / name).write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, none))
        public = (
            (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
            if ssh
            else (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        (tmp_path / f"{name}.pub").write_bytes(key.public_key().public_bytes(*public))
    path = pack(run, tmp_path / "signed.zip", key=tmp_path / "mine").path
    with opened(path, signed_by=tmp_path / "mine.pub") as pack_:
        assert pack_.signed
        assert pack_.foreign() == []
    with pytest.raises(SignatureError, match=r"is not signed by .*other\.pub"):
        unpack(path, tmp_path / "a", signed_by=tmp_path / "other.pub")
    with pytest.raises(SignatureError, match="is not signed; ask"):
        unpack(packed, tmp_path / "a", signed_by=tmp_path / "mine.pub")
    assert load(path, signed_by=tmp_path / "mine.pub").class_names == load(run).class_names
    for where, said in ((packed, "is not signed; ask"), (run, r"model\.pt is no packed model, which alone can be")):
        with pytest.raises(SignatureError, match=said):
            load([path, where], signed_by=tmp_path / "mine.pub")
    with pytest.raises(SignatureError, match=r"is not signed by .*other\.pub"):
        predict(path, tmp_path, tmp_path / "masks", signed_by=tmp_path / "other.pub")
    with pytest.raises(ModelError, match="the export beside a packed model is not signed; use torch"):
        load(path, backend="onnx", signed_by=tmp_path / "mine.pub")
    files = contents(path)
    with pytest.raises(SignatureError, match="was changed"):
        unpack(
            written({**files, "LICENSE": b"yours"}, tmp_path / "x.zip"), tmp_path / "a", signed_by=tmp_path / "mine.pub"
        )
    verify(files["medseg.json"], files["medseg.json.sig"], tmp_path / "mine.pub", "it")
    for given, said in (("nothing", "cannot be read"), ("signed.zip", "is no private key that can be read")):
        with pytest.raises(SignatureError, match=said):
            pack(run, tmp_path / "b.zip", key=tmp_path / given)
