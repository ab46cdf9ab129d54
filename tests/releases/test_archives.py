import io
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from medseg.releases.archives import ArchiveError, extract

NOISE = np.random.default_rng(0).bytes(50_000)


def make_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def make_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for member, data in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            if info.isreg():
                info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def assert_refused(archive, message, **limits):
    folder = archive.parent / "out"
    with pytest.raises(ArchiveError, match=message) as error:
        extract(archive, folder, **limits)
    assert str(archive) in str(error.value)
    assert sorted(path.name for path in archive.parent.iterdir()) == [archive.name], "something was left behind"


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_good(tmp_path, name):
    members = [("stack/raw/00.tif", NOISE), ("stack/empty", b""), ("top.txt", b"text")]
    if name.endswith("zip"):
        archive = make_zip(tmp_path / name, [("stack/", b""), *members, ("hollow/", b"")])
    else:
        mode = "w" if name.endswith(".tar") else f"w:{name.rsplit('.', 1)[1]}"
        folders = [(special(name, tarfile.DIRTYPE), b"") for name in ("stack", "hollow")]
        archive = make_tar(tmp_path / name, [*folders, *members], mode)
    folder = extract(archive, tmp_path / "deep" / "er" / "out")
    assert (folder / "stack/raw/00.tif").read_bytes() == NOISE
    assert (folder / "top.txt").read_bytes() == b"text"
    assert (folder / "stack/empty").stat().st_size == 0
    assert list((folder / "hollow").iterdir()) == []
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755  # a temporary folder is its owner's alone


def test_names_as_tar_writes_them_of_the_folder_it_is_in(tmp_path):
    members = [(special("./", tarfile.DIRTYPE), b""), (special("./a", tarfile.DIRTYPE), b""), ("./a/b", b"1")]
    folder = extract(make_tar(tmp_path / "a.tgz", members), tmp_path / "out")
    assert [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))] == ["a", "a/b"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a\\..\\evil", "C:/evil", "C:evil"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_paths_that_lead_outside(tmp_path, name, kind):
    members = [("good", b"1"), (name, b"2")]
    archive = make_zip(tmp_path / "a.zip", members) if kind == "zip" else make_tar(tmp_path / "a.tgz", members)
    assert_refused(archive, "leads outside the folder")


def test_a_zero_byte_in_a_name(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("good_evil", b"1")])
    archive.write_bytes(archive.read_bytes().replace(b"good_evil", b"good\0evil"))
    assert_refused(archive, "leads outside the folder")


@pytest.mark.parametrize(
    "member",
    [
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("link", tarfile.SYMTYPE, "good"),
        special("link", tarfile.LNKTYPE, "good"),
        special("null", tarfile.CHRTYPE),
        special("disk", tarfile.BLKTYPE),
        special("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}",
)
def test_tar_links_and_devices(tmp_path, member):
    assert_refused(make_tar(tmp_path / "a.tgz", [("good", b"1"), (member, b"")]), f"'{member.name}': it is a link or")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zip_links_and_devices(tmp_path, kind):
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    assert_refused(make_zip(tmp_path / "a.zip", [(info, "/etc/passwd")]), "'link': it is a link or a device")


def test_bombs(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("zeros", bytes(5_000_000))])
    assert archive.stat().st_size < 10_000
    assert_refused(archive, "'zeros': the archive unpacks to more than 1000000 bytes", max_bytes=1_000_000)
    archive.unlink()
    archive = make_zip(tmp_path / "b.zip", [(f"{n}", b"") for n in range(50)])
    assert_refused(archive, "more than 20 members", max_files=20)
    archive.unlink()
    archive = make_tar(tmp_path / "c.tgz", [("zeros", bytes(5_000_000))])
    assert_refused(archive, "unpacks to more than", max_bytes=1_000_000)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_as_much_as_the_limits_say(tmp_path, make):
    archive = make(tmp_path / "a", [(str(n), bytes(50)) for n in range(20)])
    folder = extract(archive, tmp_path / "out", max_files=20, max_bytes=20_000 if make is make_tar else 1000)
    assert len(list(folder.iterdir())) == 20


def test_header_that_lies_about_the_size(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("zeros", bytes(100_000))])
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + offset
        data[at : at + 4] = (100).to_bytes(4, "little")
    archive.write_bytes(bytes(data))
    assert_refused(archive, "after member")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_truncated(tmp_path, name, keep):
    members = [(f"m{n}", NOISE) for n in range(4)]
    if name == "a.zip":
        archive = make_zip(tmp_path / name, members)
    else:
        archive = make_tar(tmp_path / name, members, "w" if name == "a.tar" else "w:gz")
    size = archive.stat().st_size
    # tarfile pads to 10 kB of zeros, which may be lost without harm; cut what matters
    end = size if name != "a.tar" else 4 * (512 + 50_176)
    archive.write_bytes(archive.read_bytes()[: int(keep * end)])
    assert_refused(archive, "damaged|neither")


def test_tar_that_ends_between_two_members(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [("a", NOISE), ("b", NOISE)], "w")
    archive.write_bytes(archive.read_bytes()[: 512 + 50_176])
    assert_refused(archive, "the end of the archive is missing")


def test_damaged_content(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("first", b"1"), ("second", NOISE)], zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    data[20_000] ^= 1
    archive.write_bytes(bytes(data))
    assert_refused(archive, "after member 'first'")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # raised by zipfile as it makes the bad archive
def test_repeated_and_clashing_members(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a", b"1"), ("a", b"2")])
    assert_refused(archive, "'a': it is there twice")
    archive.unlink()
    archive = make_zip(tmp_path / "b.zip", [("a", b"1"), ("a/b", b"2")])
    assert_refused(archive, "cannot be unpacked after member 'a'")


def test_encrypted_member(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a", b"1")])
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    archive.write_bytes(bytes(data))
    assert_refused(archive, "it is encrypted")


def test_wrong_arguments(tmp_path):
    with pytest.raises(ArchiveError, match="no such file"):
        extract(tmp_path / "none.zip", tmp_path / "out")
    archive = make_zip(tmp_path / "a.zip", [("a", b"1")])
    (tmp_path / "out").mkdir()
    extract(archive, tmp_path / "out")
    with pytest.raises(ArchiveError, match="out exists already; name a new or empty folder"):
        extract(archive, tmp_path / "out")
    (tmp_path / "text.zip").write_text("not an archive")
    with pytest.raises(ArchiveError, match="neither a zip nor a tar"):
        extract(tmp_path / "text.zip", tmp_path / "other")
