"""Damage image files at random and see that the reader refuses or reads them: no crash, no hang, no memory, no lie.

``python tests/fuzz_images.py --count 200`` damages so many files of each format and prints what became of them. Each
file is read in a child process, which is told apart from a crash or hang of it. Checksums are judged here without the
reader: by Pillow's ``verify`` (PNG), by ``gzip`` and by ``zlib``.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from select import select

import numpy as np

SECONDS = 10
ALLOWANCE = 64 << 20

_CHILD = """
import sys, time
from medseg.io.images import ImageError, read_image
def memory(field):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(field))
for line in sys.stdin:
    open("/proc/self/clear_refs", "w").write("5")
    before, start = memory("VmRSS"), time.monotonic()
    try:
        image = read_image(line.rstrip("\\n"))
        said, size = "read", image.array.nbytes
    except ImageError as error:
        tidy = str(error).startswith(line[:-5]) and "\\n" not in str(error)
        said, size = ("refused" if tidy else "untidy: " + repr(str(error))), 0
    except BaseException as error:
        said, size = "raised: " + repr(error)[:300], 0
    print(repr((said, size, time.monotonic() - start, max(memory("VmHWM") - before, 0))), flush=True)
"""


class Child:
    """A process that reads files one after the other."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> tuple[str, int, float, int]:
        """Return what was said, the size of the values read, seconds, and bytes of memory at most."""
        if self.process is None:
            command = [sys.executable, "-W", "ignore", "-c", _CHILD]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        if not select([process.stdout], [], [], SECONDS * 6)[0]:
            self.close()
            return "hang", 0, SECONDS * 6.0, 0
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self.close()
            return f"crash: exit {code}", 0, 0.0, 0
        said, size, seconds, memory = eval(line)
        return said, size, seconds, memory

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
            self.process = None


def _pictures(folder: Path, noise: np.random.Generator) -> dict[str, list[Path]]:
    from PIL import Image

    colours = noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    palette = Image.fromarray(colours[..., 0] % 4)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    smooth = Image.fromarray(np.repeat(np.arange(48, dtype=np.uint8), 64).reshape(48, 64))
    made: dict[str, list[Path]] = {"png": [], "jpeg": [], "bmp": []}
    for number, (name, image, options) in enumerate(
        [
            ("png", Image.fromarray(colours), {}),
            ("png", Image.fromarray(colours[..., 0].astype(np.uint16) * 200), {}),
            ("png", palette, {}),
            ("png", smooth, {}),
            ("jpeg", Image.fromarray(colours), {"quality": 90}),
            ("jpeg", Image.fromarray(colours), {"progressive": True}),
            ("jpeg", smooth, {}),
            ("bmp", Image.fromarray(colours), {}),
            ("bmp", palette, {}),
        ]
    ):
        made[name].append(folder / f"{number}.{name}")
        image.save(made[name][-1], **options)
    import imagecodecs

    made["png"].append(folder / "deep.png")
    made["png"][-1].write_bytes(imagecodecs.png_encode(colours.astype(np.uint16) * 257))
    return made


def _tiffs(folder: Path, noise: np.random.Generator) -> list[Path]:
    import tifffile

    colours = noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    stack = noise.integers(0, 4000, (5, 32, 32)).astype(np.uint16)
    variants = [
        (colours, {"photometric": "rgb"}),
        (colours, {"photometric": "rgb", "compression": "zlib", "predictor": True}),
        (colours, {"photometric": "rgb", "compression": "lzw"}),
        (colours, {"photometric": "rgb", "compression": "jpeg"}),
        (colours, {"photometric": "rgb", "tile": (16, 16), "byteorder": ">"}),
        (stack, {"photometric": "minisblack", "bigtiff": True}),
        (stack, {"photometric": "minisblack", "compression": "packbits"}),
        (stack.astype(np.float32), {"imagej": True}),
        (colours, {"photometric": "rgb", "planarconfig": "contig", "rowsperstrip": 7, "metadata": None}),
    ]
    paths = [folder / f"{number}.tif" for number in range(len(variants))]
    for path, (array, options) in zip(paths, variants, strict=True):
        tifffile.imwrite(path, array, **options)
    return paths


def _volumes(folder: Path, noise: np.random.Generator) -> dict[str, list[Path]]:
    import itk
    import nibabel

    volume = noise.integers(-1000, 1000, (20, 24, 6)).astype(np.int16)
    made: dict[str, list[Path]] = {"nii": [], "nii.gz": [], "nrrd": [], "mha": []}
    for name in ("nii", "nii.gz"):
        for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
            made[name].append(folder / f"{kind.__name__}.{name}")
            nibabel.save(kind(volume, np.diag([1, 2, 3, 1.0])), made[name][-1])
    image = itk.image_from_array(volume.transpose(2, 1, 0).copy())
    for name in ("nrrd", "mha"):
        for packed in (False, True):
            made[name].append(folder / f"{packed}.{name}")
            itk.imwrite(image, str(made[name][-1]), compression=packed)
    return made


def _dicoms(folder: Path) -> list[Path]:
    from pydicom.data import get_testdata_file

    paths = []
    for name in ("CT_small", "MR_small_RLE", "MR_small_bigendian", "JPEG2000", "MR_small_jpeg_ls_lossless"):
        (folder / name).mkdir()  # of its own: a file is read with its series
        paths.append(folder / name / f"{name}.dcm")
        paths[-1].write_bytes(Path(str(get_testdata_file(f"{name}.dcm", download=False))).read_bytes())
    return paths


def originals(folder: Path) -> dict[str, list[Path]]:
    """Write healthy files of each format, from Pillow, tifffile, nibabel, ITK and pydicom's own tests."""
    noise = np.random.default_rng(0)
    made = _pictures(folder, noise) | {"tiff": _tiffs(folder, noise)} | _volumes(folder, noise)
    return made | {"dicom": _dicoms(folder)}


def damage(content: bytes, rng: random.Random, *, packed: bool) -> tuple[str, bytes]:
    """Return how a file was damaged, and it.

    Args:
        content: the healthy file.
        rng: draws the damage.
        packed: it is gzip; then its header is also changed inside, below a right checksum.
    """
    kind = rng.choice(("bits", "header", "cut", "inside" if packed else "bits"))
    if kind == "cut":
        return kind, content[: rng.randrange(len(content))]
    data = bytearray(gzip.decompress(content) if kind == "inside" else content)
    end = len(data) if kind == "bits" else min(len(data), 352)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(end)
        if kind == "bits":
            data[place] ^= 1 << rng.randrange(8)
        else:
            data[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return kind, gzip.compress(bytes(data), mtime=0) if kind == "inside" else bytes(data)


def checksum_is_wrong(name: str, content: bytes) -> bool:
    """Return whether a checksum inside the file says that it is damaged, asked of another reader than ours."""
    from PIL import Image

    checks: dict[str, Callable[[], object]] = {
        "png": lambda: Image.open(io.BytesIO(content), formats=("PNG",)).verify(),
        "nii.gz": lambda: gzip.decompress(content),
    }
    if name == "nrrd" and b"encoding: gzip" in content:
        checks[name] = lambda: gzip.decompress(content.partition(b"\n\n")[2])
    if name == "mha" and b"CompressedData = True" in content:
        checks[name] = lambda: zlib.decompress(content.partition(b"ElementDataFile = LOCAL\n")[2])
    try:
        checks.get(name, lambda: None)()
    except (OSError, EOFError, zlib.error, SyntaxError):  # Pillow's word for a damaged PNG is SyntaxError
        return True
    return False


def fuzz(
    count: int, folder: Path, *, seed: int = 0, formats: tuple[str, ...] = ()
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Damage and read `count` files of each format; return what became of them, and every fault of the reader."""
    rng, child = random.Random(seed), Child()
    tally: dict[str, Counter[str]] = {}
    faults: list[str] = []
    (folder / "healthy").mkdir()
    for name, paths in originals(folder / "healthy").items():
        if formats and name not in formats:
            continue
        counts = tally[name] = Counter()
        sizes = {path: child.read(path)[1] for path in paths}  # also loads what this format needs
        if not all(sizes.values()):
            faults.append(f"{name}: a healthy file is refused")
        for number in range(count):
            source = rng.choice(paths)
            kind, content = damage(source.read_bytes(), rng, packed=name == "nii.gz")
            own = folder / f"{name}{number}"  # a DICOM file looks for its series beside it
            own.mkdir()
            path = own / f"x{''.join(source.suffixes[-2:]) if name == 'nii.gz' else source.suffix}"
            path.write_bytes(content)
            said, size, seconds, memory = child.read(path)
            counts[said.split(":")[0]] += 1
            counts["slowest ms"] = max(counts["slowest ms"], round(seconds * 1000))
            counts["most MiB"] = max(counts["most MiB"], memory >> 20)
            wrong = checksum_is_wrong(name, content)
            counts["checksum wrong"] += wrong
            told = f"{name} {number} ({source.name}, {kind}): "
            if said not in ("read", "refused"):
                faults.append(told + said)
            if said == "read" and wrong:
                faults.append(told + "read though its checksum is wrong")
            if seconds > SECONDS or memory > 2 * max(sizes[source], size) + ALLOWANCE:
                faults.append(told + f"{seconds:.1f} s, {memory >> 20} MiB")
            if path.exists() and not any(told in fault for fault in faults):
                path.unlink()
    child.close()
    return tally, faults


def main(
    work: Callable[..., tuple[dict[str, Counter[str]], list[str]]] = fuzz, description: str | None = __doc__
) -> None:
    """Fuzz every format and print a line for each.

    Args:
        work: see `fuzz`.
        description: of the command.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep the files that show a fault in this new folder")
    parser.add_argument("formats", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.keep:
            options.keep.mkdir()
        folder = options.keep or Path(temporary)
        tally, faults = work(options.count, folder, seed=options.seed, formats=tuple(options.formats))
    for name, counts in tally.items():
        print(name, json.dumps(counts))
    print(*faults, f"{len(faults)} faults", sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
