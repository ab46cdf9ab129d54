"""Archives that are made to harm: each is built byte by byte, and refused in little time and memory."""

import gzip
import io
import lzma
import random
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from medseg.releases.archives import ArchiveError, extract

NOISE = np.random.default_rng(0).bytes(20_000)
MIB = 2**20


def header(name, size, kind=tarfile.REGTYPE, **changes):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for at, data in changes.items():
        block[int(at[1:]) : int(at[1:]) + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % 512)


def good(name="good", data=NOISE):
    return header(name, len(data)) + padded(data)


def pax(**records):
    lines = b""
    for key, value in records.items():
        line = f" {key.replace('_', '.')}={value}\n".encode()
        size = len(line) + 1
        while size != len(str(size)) + len(line):
            size += 1
        lines += str(size).encode() + line
    return header("pax", len(lines), tarfile.XHDTYPE) + padded(lines)


END = bytes(1024)


def assert_refused(folder, data, message, **limits):
    """Refused in one line, with nothing left behind and with at most 12 MB of memory (xz alone has 8)."""
    archive = folder / "a\nb.tar"
    archive.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=message) as error:
            extract(archive, folder / "out", **limits)
        assert tracemalloc.get_traced_memory()[1] < 12 * MIB
    finally:
        tracemalloc.stop()
    assert "a\\nb.tar" in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 900
    assert [path.name for path in folder.iterdir()] == ["a\nb.tar"]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"X"])
def test_extended_headers_of_gigabytes(tmp_path, kind, first):
    """Twenty kilobytes of gzip hold twenty megabytes of name."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6) as file:
        file.write((b"" if first else good()) + header("name", 20 * MIB, kind))
        for _ in range(20):
            file.write(b"a" * MIB)
    assert_refused(tmp_path, packed.getvalue(), "an extended header claims 20971520 bytes, more than 1048576")


def test_honest_extended_headers(tmp_path):
    """Long names and non-ASCII ones need them."""
    name = "/".join(["ordner " + "é" * 60] * 4) + "/b.png"
    for number, layout in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        with tarfile.open(tmp_path / f"{number}.tgz", "w:gz", format=layout) as file:
            info = tarfile.TarInfo(name)
            info.size = len(NOISE)
            file.addfile(info, io.BytesIO(NOISE))
        assert (extract(tmp_path / f"{number}.tgz", tmp_path / f"out{number}") / name).read_bytes() == NOISE


@pytest.mark.parametrize(
    "member",
    [
        header("hole", 0, tarfile.GNUTYPE_SPARSE, _386=b"00000000000\0" + b"00000000000\0", _483=b"77777777777\0"),
        pax(GNU_sparse_size="9" * 12, GNU_sparse_numblocks="1", GNU_sparse_offset="0", GNU_sparse_numbytes="0")
        + good(),
        pax(GNU_sparse_map="0,0", GNU_sparse_size="9" * 12) + good(),
        pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_name="a", GNU_sparse_realsize="9" * 12)
        + good(data=b"99999999\n" + b"1\n" * 10_000),
    ],
    ids=["gnu", "0.0", "0.1", "1.0"],
)
def test_sparse_members(tmp_path, member):
    assert_refused(tmp_path, good("first") + member + END, "sparse")


def test_one_folder_over_and_over(tmp_path):
    data = gzip.compress(header("a", 0, tarfile.DIRTYPE) * 5000 + END)
    assert_refused(tmp_path, data, "more than 1000 members", max_files=1000)


@pytest.mark.parametrize("name", ["a/" * 100 + "b", "a" * 5000])
def test_names_that_no_file_system_takes(tmp_path, name):
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        file.addfile(tarfile.TarInfo(name))
    data = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").unlink()
    assert_refused(tmp_path, data, "too many")


def test_a_file_without_a_name(tmp_path):
    assert_refused(tmp_path, good("first") + good(".") + END, "member '.': it has no name")


@pytest.mark.parametrize("packer", [gzip.compress, lzma.compress])
def test_zeros_after_the_end_are_counted(tmp_path, packer):
    assert_refused(tmp_path, packer(good() + END + bytes(5_000_000)), "unpacks to more than", max_bytes=1_000_000)


def test_checksum_at_the_very_end(tmp_path):
    """The content is read before gzip's checksum is."""
    data = bytearray(gzip.compress(good() + END + bytes(10_000)))
    data[-6] ^= 1
    assert_refused(tmp_path, bytes(data), "after member 'good'")
    (tmp_path / "a\nb.tar").unlink()
    assert_refused(tmp_path, bytes(data[:-4]), "after member 'good'")


def test_one_block_of_zeros_is_an_end(tmp_path):
    """Two is what the format says; GNU tar takes one, and tarfile none."""
    (tmp_path / "a.tar").write_bytes(good() + END[:512])
    assert (extract(tmp_path / "a.tar", tmp_path / "out") / "good").read_bytes() == NOISE


def test_a_tar_with_a_zip_in_it_is_a_tar(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("inner.txt", b"1")
    (tmp_path / "a.tar").write_bytes(good() + good("last.zip", inner.getvalue()) + END)
    assert zipfile.is_zipfile(tmp_path / "a.tar")
    folder = extract(tmp_path / "a.tar", tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["good", "last.zip"]


def test_zip_members_that_share_bytes(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("one", bytes(500_000))
        file.writestr("two", bytes(500_000))
    data = bytearray(packed.getvalue())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = (0).to_bytes(4, "little")  # its local header is the first one's
    assert_refused(tmp_path, bytes(data), "it shares bytes with another member")


def test_zip_with_many_members(tmp_path):
    """The last one is named: the list is counted before anything is unpacked."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for n in range(50):
            file.writestr(str(n), b"")
    assert_refused(tmp_path, packed.getvalue(), "member '49': the archive has more than 20 members", max_files=20)


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz", "txz"])
def test_bytes_changed_anywhere(tmp_path, kind):
    """Each is unpacked as it was, or refused: no other error, nothing left behind, and never another content."""
    if kind == "zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a/one", NOISE)
            file.writestr("two", b"text" * 100)
        data = packed.getvalue()
    else:
        data = pax(path="a/one") + good("x") + good("two", b"text" * 100) + END
        data = {"tar": bytes, "tgz": gzip.compress, "txz": lzma.compress}[kind](data)
    draw = random.Random(0)
    messages = []
    for number in range(200):
        changed = bytearray(data)
        limit = len(data) if number % 2 else min(len(data), 2000)
        for _ in range(draw.choice((1, 1, 8))):
            changed[draw.randrange(limit)] = draw.randrange(256)
        archive = tmp_path / f"{number}.archive"
        archive.write_bytes(changed[: draw.randrange(len(data))] if number % 5 == 0 else changed)
        try:
            folder = extract(archive, tmp_path / "out", max_bytes=10 * MIB)
        except ArchiveError as error:
            messages.append(str(error))
            assert not (tmp_path / "out").exists()
            continue
        if kind in ("tgz", "txz"):
            contents = {path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            assert contents == {NOISE, b"text" * 100}, "a wrong checksum was read as right"
        folder.rename(tmp_path / f"{number}.out")
    assert len(messages) > 40
    assert all(message.startswith(str(tmp_path)) and message.isprintable() for message in messages)
