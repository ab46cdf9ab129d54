"""Orthanc (apt: orthanc, orthanc-dicomweb), an archive of others, in a network of its own; nginx (apt) gives it TLS.

Its 1.10.1 listens on every interface whatever it is told, so it runs in a network namespace that has loopback alone.
A thread of this process goes there to ask it: a socket belongs to the network of the thread that makes it.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from dicomweb_server import PASSWORD, USER

from benchmarks.orthanc import place_of

PORT, TLS_PORT = 8042, 8443
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_NETWORK = 0x40000000  # CLONE_NEWNET


class Orthanc:
    """A running Orthanc; `there` calls a function where it can be reached."""

    url = f"http://127.0.0.1:{PORT}/dicom-web"
    address = f"dicomweb+http://127.0.0.1:{PORT}/dicom-web"

    def __init__(self, folder):
        self.folder, self.process = folder, None
        settings = {
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpPort": PORT,
            "DicomServerEnabled": False, "RemoteAccessAllowed": True, "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD}, "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True},
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))

    def start(self):
        """Start it in a new network, with what it held."""
        inside = f"ip link set lo up && exec {place_of('Orthanc')} {self.folder / 'orthanc.json'}"
        with open(self.folder / "orthanc.log", "ab") as log:
            self.process = subprocess.Popen(["unshare", "--net", "sh", "-c", inside], stdout=log, stderr=log)
        until = time.monotonic() + 120
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"Orthanc did not start: {(self.folder / 'orthanc.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self, number):
        """End it by a signal."""
        self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _listens(self):
        if os.readlink(f"/proc/{self.process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            return False  # it has not gone there yet

        return self.listens(PORT)

    def listens(self, port):
        """Return whether something listens there."""

        def connect():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        return self.there(connect)

    def there(self, function):
        """Call a function by a thread in Orthanc's network; return what it returns."""
        result = {}

        def go():
            try:
                file = os.open(f"/proc/{self.process.pid}/ns/net", os.O_RDONLY)
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.setns(file, _NETWORK) == 0, os.strerror(ctypes.get_errno())
                os.close(file)
                result["value"] = function()
            except BaseException as error:
                result["error"] = error

        thread = threading.Thread(target=go)
        thread.start()
        thread.join()
        if "error" in result:
            raise result["error"]
        return result["value"]


_NGINX = """
daemon off; worker_processes 1; user root; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
    location / {{
      proxy_pass http://127.0.0.1:{inner}; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto https;
    }}
  }}
}}
"""


@contextlib.contextmanager
def behind_tls(there, certificate, key):
    """Yield the address of an Orthanc behind nginx, in its network; skip where there is no nginx."""
    program = place_of("nginx")
    if program is None:
        pytest.skip("needs nginx: apt install nginx-light")
    folder = certificate.parent
    given = {"folder": folder, "certificate": certificate, "key": key, "port": TLS_PORT, "inner": PORT}
    (folder / "nginx.conf").write_text(_NGINX.format(**given))
    command = [program, "-e", folder / "nginx.log", "-p", folder, "-c", folder / "nginx.conf"]
    process = there.there(lambda: subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    try:
        until = time.monotonic() + 60
        while not there.listens(TLS_PORT):
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"nginx did not start: {process.stderr.read()}")
            time.sleep(0.05)
        yield f"dicomweb://127.0.0.1:{TLS_PORT}/dicom-web"
    finally:
        process.terminate()
        process.communicate(timeout=60)


def why_not():
    """Return why Orthanc cannot run here; empty where it can."""
    if not sys.platform.startswith("linux"):
        return "needs Linux: Orthanc runs in a network namespace"
    if place_of("Orthanc") is None or not PLUGIN.exists():
        return "needs Orthanc: apt install orthanc orthanc-dicomweb"
    if shutil.which("ip") is None:
        return "needs ip: apt install iproute2"
    made = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"no network namespace can be made here: {made.stderr.strip()}" if made.returncode else ""


@contextlib.contextmanager
def orthanc(folder):
    """Yield an Orthanc with a password, without TLS (Debian's crashes at it); skip where it cannot run."""
    if why := why_not():
        pytest.skip(why)
    made = Orthanc(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop(signal.SIGKILL)
