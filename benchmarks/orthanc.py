"""Programs of others, and Orthanc as an archive in a network namespace that has loopback alone.

Its 1.10.1 listens everywhere.

unshare --net sh -c 'ip link set lo up && python -m benchmarks.node_soak --orthanc'
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Orthanc", "free_port", "place_of", "program"]

_DCMQI = ("itkimage2segimage", "segimage2itkimage", "tid1500reader")
_HOST, _HTTP = "127.0.0.1", 8042
_URL = f"http://{_HOST}:{_HTTP}"


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server((_HOST, 0)) as server:
        return int(server.getsockname()[1])


def place_of(name: str) -> str | None:
    """Return the path of a program of others, if there is one.

    Of pip is dcmqi alone: beside the interpreter lies a ``storescu`` too, which is pynetdicom's.
    """
    home = Path(sys.executable).parent
    places = [place for place in os.environ.get("PATH", "").split(os.pathsep) if Path(place) != home]
    places = [str(home), *places] if name in _DCMQI else [*places, "/usr/sbin"]
    return shutil.which(name, path=os.pathsep.join(places))


def program(name: str) -> str:
    """Return the path of a program of others.

    Raises:
        SystemExit: if there is none.
    """
    found = place_of(name)
    if found is None:
        raise SystemExit(f"needs {name}: pip install dcmqi; apt install dcmtk dicom3tools orthanc")
    return found


class Orthanc:
    """It, with C-STORE.

    Args:
        folder: for its files.
        others: whom it may send to: by a name, title, host and port.
    """

    came: None = None  # it does not count what came again

    def __init__(self, folder: Path, others: Mapping[str, Sequence[Any]] | None = None) -> None:
        if [name for _, name in socket.if_nameindex()] != ["lo"]:
            raise RuntimeError("Orthanc would listen on every interface; run this in a network namespace, see its head")
        self.port, self._folder, self._program = 4242, folder, program("Orthanc")
        folder.mkdir(parents=True)
        settings = {
            **{"StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpPort": _HTTP},
            **{"DicomPort": self.port, "DicomAet": "ARCHIVE", "DicomServerEnabled": True, "OverwriteInstances": False},
            **{"DicomAlwaysAllowStore": True, "RemoteAccessAllowed": True, "AuthenticationEnabled": False},
            **{"Plugins": [], "DicomModalities": dict(others or {})},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.up()

    def up(self) -> None:
        """Start it, and wait until it listens."""
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(self._folder / "orthanc.json")], stdout=log, stderr=log
            )
        for port in (_HTTP, self.port):
            for _ in range(600):
                try:
                    socket.create_connection((_HOST, port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)

    def down(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(60)

    @property
    def name(self) -> str:
        """Its name and version."""
        return f"Orthanc {self._ask('/system')['Version']}"

    @property
    def held(self) -> dict[str, tuple[str, int]]:
        """What it holds: instance to study and number of instances that it refers to."""
        found = {}
        for instance in self._ask("/instances"):
            tags = self._ask(f"/instances/{instance}/simplified-tags")
            referred = tags["ReferencedSeriesSequence"][0]["ReferencedInstanceSequence"]
            found[tags["SOPInstanceUID"]] = (tags["StudyInstanceUID"], len(referred))
        return found

    def series(self, modality: str) -> set[str]:
        """Return its names of the series of a modality."""
        return {
            each
            for each in self._ask("/series")
            if self._ask(f"/series/{each}")["MainDicomTags"]["Modality"] == modality
        }

    def send(self, series: str, to: str) -> None:
        """Send a series to one of `others`, all of it."""
        self._ask(f"/modalities/{to}/store", {"Resources": [series], "Synchronous": True})

    def fetch(self, modality: str, series: str, folder: Path) -> list[Path]:
        """Fetch the objects of a modality of the study that a series is of; return their files."""
        folder.mkdir(parents=True)
        files: list[Path] = []
        study = self._ask(f"/series/{series}")["ParentStudy"]
        for each in self._ask(f"/studies/{study}/series"):
            for instance in each["Instances"] if each["MainDicomTags"]["Modality"] == modality else ():
                files.append(folder / f"{len(files)}.dcm")
                with urllib.request.urlopen(f"{_URL}/instances/{instance}/file", timeout=30) as answer:
                    files[-1].write_bytes(answer.read())
        return files

    def _ask(self, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(f"{_URL}{path}", data, timeout=60) as answer:
            return json.load(answer)
