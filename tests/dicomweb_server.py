"""A small archive in this process that speaks DICOMweb as far as medseg asks, and does so as badly as it is told."""

import base64
import contextlib
import datetime
import io
import ipaddress
import json
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pydicom
from pydicom.dataset import Dataset

CHUNKED = "Transfer-Encoding", "chunked"
BOUNDARY = "part-of-the-answer"
USER, PASSWORD = "gerda", "geheimes-wort"


class FakeArchive(ThreadingHTTPServer):
    """Holds files; its attributes say how badly it serves them.

    ``faults``: what happens to the next requests, one each: a status, ``"cut"`` (half of the body), ``"open"`` (half of
    it, without a length), ``"chunks"``, ``"half"`` of them, ``"slow"``, ``"drip"``, ``"redirect"`` or ``""``.
    """

    daemon_threads = True

    def __init__(self, context=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.held = {}
        self.faults = []
        self.over = threading.Event()  # ends what is slow
        self.requests = []
        self.asked_by = set()  # what requests said of who asks
        self.grow = []  # files that come, one after each series that was read
        self.page = None  # most answers of a search
        self.knows_offset = True
        self.refuses = None  # status and failure reason of storing
        self.loses = False  # what is stored
        self.changes = None  # what becomes of what is stored
        self.secure = context is not None
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self):
        return f"http{'s' * self.secure}://127.0.0.1:{self.server_port}/dicom-web"

    def add(self, data):
        dataset = pydicom.dcmread(io.BytesIO(data))
        plain = Dataset()
        plain.update({element.tag: element for element in dataset if element.keyword != "PixelData"})
        self.held[str(dataset.SOPInstanceUID)] = (dataset, data, plain.to_json_dict())

    def handle_error(self, request, client_address):  # a client that does not trust it hangs up
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm, wbufsize = True, 2**16  # headers and body at once: the other side waits with its word

    def do_GET(self):
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if self._begin(path):
            return
        found = re.fullmatch(
            r"/dicom-web(?:/studies/([^/]+))?(?:/series/([^/]+))?(?:/instances/([^/]+))?(/series|/instances|/metadata)?",
            path,
        )
        study, series, uid, kind = found.groups()
        held = [
            (dataset, data, tags)
            for dataset, data, tags in self.server.held.values()
            if study in (None, dataset.StudyInstanceUID)
            and series in (None, dataset.SeriesInstanceUID)
            and uid in (None, dataset.SOPInstanceUID)
            and query.get("SOPInstanceUID", [dataset.SOPInstanceUID])[0] == dataset.SOPInstanceUID
        ]
        if kind:
            self._send_found([tags for *_, tags in held], kind, int(query.get("offset", ["0"])[0]))
            return
        parts = [b"\r\n--%s\r\nContent-Type: application/dicom\r\n\r\n%s" % (BOUNDARY.encode(), d) for _, d, _ in held]
        self._send(
            200,
            b"".join([*parts, b"\r\n--%s--" % BOUNDARY.encode()]),
            f'multipart/related; type="application/dicom"; boundary={BOUNDARY}',
        )
        if self.server.grow and not uid:
            self.server.add(self.server.grow.pop(0))

    def _send_found(self, answers, kind, offset):
        if kind == "/series":
            answers = list({str(tags[tag("SeriesInstanceUID")]): tags for tags in answers}.values())
        if kind != "/metadata":
            names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality", "SeriesDescription")
            answers = [{n: tags[n] for n in map(tag, names) if n in tags} for tags in answers]
        if self.server.knows_offset:
            answers = answers[offset:]
        self._send(200, json.dumps(answers[: self.server.page]).encode(), "application/dicom+json")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._begin(urlsplit(self.path).path):
            return
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
        files = [part.partition(b"\r\n\r\n")[2] for part in body.split(b"\r\n--" + boundary)[1:-1]]
        answer = Dataset()
        status = 200
        for data in files:
            dataset = pydicom.dcmread(io.BytesIO(data))
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
            if self.server.refuses:
                status, item.FailureReason = self.server.refuses
                answer.FailedSOPSequence = [item]
            else:
                answer.ReferencedSOPSequence = [item]
                if self.server.changes:
                    self.server.changes(dataset)
                    written = io.BytesIO()
                    dataset.save_as(written)
                    data = written.getvalue()
                if not self.server.loses:
                    self.server.add(data)
        self._send(status, json.dumps(answer.to_json_dict()).encode(), "application/dicom+json")

    def _begin(self, path):
        """Return whether the request has its answer already."""
        self.server.requests.append((self.command, path))
        self.server.asked_by.add(self.headers.get("Authorization"))
        signed = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {signed}":
            self._plain(401)
            return True
        self.fault = self.server.faults.pop(0) if self.server.faults else ""
        if isinstance(self.fault, int):
            self._plain(self.fault)
            return True
        if self.fault == "redirect":
            self._plain(302, Location="http://127.0.0.1:9/elsewhere")
            return True
        if self.fault == "slow":
            self.server.over.wait(60)
        return False

    def _plain(self, status, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status, body, kind):
        with contextlib.suppress(ConnectionError):  # the client may hang up first
            self.send_response(status)
            self.send_header("Content-Type", kind)
            length = {"open": ("Connection", "close"), "chunks": CHUNKED, "half": CHUNKED}
            self.send_header(*length.get(self.fault, ("Content-Length", str(len(body)))))
            self.end_headers()
            if self.fault in ("chunks", "half"):
                pieces = [body[place : place + 1000] for place in range(0, len(body), 1000)]
                body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            if self.fault in ("cut", "open", "half"):
                body = body[: len(body) // 2]
                self.close_connection = True
            if self.fault == "drip":
                for place in range(8):
                    self.wfile.write(body[place : place + 1])
                    self.wfile.flush()
                    time.sleep(0.1)
                self.close_connection = True
                return
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def tag(keyword):
    return f"{pydicom.datadict.tag_for_keyword(keyword):08X}"


@contextlib.contextmanager
def serving(context=None):
    """Yield an archive that runs."""
    made = FakeArchive(context)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.over.set()
        made.shutdown()
        thread.join()
        made.server_close()


def self_signed(folder):
    """Write a certificate of this host; return what serves with it, and its file."""
    key = _key(folder / "key.pem")
    _certificate(folder / "cert.pem", "archive", key, "archive", key, ca=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, folder / "cert.pem"


def by_an_authority(folder, **other):
    """Write a certificate of this host by an authority of its own; return the files of it, its key, the authority.

    ``host`` names another host, ``days`` other first and last days from now.
    """
    authority, key = _key(folder / "ca_key.pem"), _key(folder / "key.pem")
    _certificate(folder / "ca.pem", "hospital", authority, "hospital", authority, ca=True)
    _certificate(folder / "cert.pem", "archive", key, "hospital", authority, ca=False, **other)
    return folder / "cert.pem", folder / "key.pem", folder / "ca.pem"


def _key(path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return key


def _certificate(path, subject, key, issuer, signing, *, ca, host="127.0.0.1", days=(-1, 1)):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
    )
    if not ca:
        made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), False)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    path.write_bytes(made.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
