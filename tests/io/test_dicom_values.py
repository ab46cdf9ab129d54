"""The values of a series are those of the same slices uncompressed, by pydicom alone, however they are stored."""

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_series import AXIAL, enhance, write_series
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from medseg.io.dicom_pixels import read_pixels, result_type
from medseg.io.image_file import ImageError
from medseg.io.images import read_image

SHAPE = (16, 24)
KINDS = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "OT": "1.2.840.10008.5.1.4.1.1.7"}
CODES = {
    JPEG2000Lossless: lambda a, bits: imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k", bitspersample=bits),
    JPEGLSLossless: lambda a, bits: imagecodecs.jpegls_encode(a),
    JPEGLosslessSV1: lambda a, bits: imagecodecs.ljpeg_encode(a, bitspersample=bits),
}
if hasattr(imagecodecs, "htj2k_encode"):  # of the oldest version it is no part
    CODES["1.2.840.10008.1.2.4.201"] = lambda a, bits: imagecodecs.htj2k_encode(a)


def white_is_small(data):
    data.PhotometricInterpretation = "MONOCHROME1"


def window(data):
    data.WindowCenter, data.WindowWidth = 40, 100
    data.VOILUTSequence = [_table(range(255, -1, -1))]


def table(data):
    del data.RescaleSlope, data.RescaleIntercept
    data.ModalityLUTSequence = [_table(np.arange(1 << min(data.BitsStored, 12), dtype=np.uint16)[::-1] * 3)]
    data.ModalityLUTSequence[0].ModalityLUTType = "OD"


def scale(data):
    data.RescaleSlope, data.RescaleIntercept = "2.5", "-7.25"


def _table(values):
    item = Dataset()
    item.LUTDescriptor = [len(values), 0, 16]
    item.LUTData = np.asarray(values, "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


def _values(stored, signed, held, number):
    low, high = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
    values = np.linspace(low, high, SHAPE[0] * SHAPE[1]).round().reshape(SHAPE)
    return np.roll(values, number, axis=1).astype(f"{'i' if signed else 'u'}{held // 8}")


def write(folder, modality, stored, signed, change):
    held = 8 if stored == 8 else 16

    def store(number, data):
        data.Modality, data.SOPClassUID = modality, KINDS[modality]
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = held, stored, stored - 1, signed
        data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
        data.PixelData = _values(stored, signed, held, number).tobytes()
        for name in ("PixelPaddingValue", "SmallestImagePixelValue", "LargestImagePixelValue"):
            data.pop(name, None)
        change(data)

    return write_series(folder, [0, 2], store, turn=AXIAL)


def truth(folder):
    """By pydicom alone, columns before rows, slices last in order of place."""
    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir(), reverse=True)]
    return np.stack([apply_modality_lut(data.pixel_array, data).T for data in slices], axis=-1)


def compress(folder, syntax):
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        if syntax == RLELossless:
            data.compress(RLELossless, generate_instance_uid=False)
        else:
            values = data.pixel_array
            if syntax != JPEG2000Lossless:  # these codes know no sign: bits above those stored are dropped
                values = values.view(f"u{values.itemsize}")
                values = values & values.dtype.type((1 << data.BitsStored) - 1)
            data.PixelData = encapsulate([CODES[syntax](values, data.BitsStored)])
            data["PixelData"].VR = "OB"
            data.file_meta.TransferSyntaxUID = syntax
        data.save_as(path)


@pytest.mark.parametrize("change", [white_is_small, window, table, scale])
@pytest.mark.parametrize(("stored", "signed"), [(8, 0), (12, 0), (12, 1), (16, 1)])
@pytest.mark.parametrize("modality", list(KINDS))
def test_compressed_as_uncompressed(tmp_path, modality, stored, signed, change):
    """GDCM turns MONOCHROME1 round, drops modality tables, and applies slopes by the kind of the object."""
    if change is table and signed:
        return  # its first value would be negative, which pydicom's own table does not take
    folder = write(tmp_path / "s", modality, stored, signed, change)
    expected = truth(folder)
    assert expected.max() > expected.min()
    np.testing.assert_array_equal(read_image(folder).array, expected)
    for syntax in (RLELossless, *CODES):
        write(folder, modality, stored, signed, change)
        compress(folder, syntax)
        np.testing.assert_array_equal(read_image(folder).array, expected, err_msg=str(syntax))


@pytest.mark.parametrize("frames", [1, 3])
def test_frames_that_are_compressed_keep_their_own_slopes(tmp_path, frames):
    folder = write(tmp_path / "s", "CT", 12, 0, lambda data: None)
    names = ["01.dcm", "02.dcm", "01.dcm"][:frames]
    path = enhance(folder, tmp_path / "m" / "x.dcm", names, transforms=[(1.5, 3), (2, -1), (1, 0)][:frames])
    data = pydicom.dcmread(path)
    del data.RescaleSlope, data.RescaleIntercept
    data.save_as(path)
    expected = read_pixels(path, result_type({path: data}))
    values = data.pixel_array.reshape(frames, *SHAPE)
    np.testing.assert_array_equal(expected[0], values[0] * 1.5 + 3)
    data.PixelData = encapsulate([CODES[JPEG2000Lossless](values[frame], 12) for frame in range(frames)])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.save_as(path)
    np.testing.assert_array_equal(read_pixels(path, result_type({path: data})), expected)


@pytest.mark.parametrize("frames", [1, 2])
def test_colours_that_are_compressed(tmp_path, frames):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (frames, *SHAPE, 3), np.uint8)
    folder = write(tmp_path / "s", "OT", 8, 0, lambda data: None)
    path = folder / "01.dcm"
    data = pydicom.dcmread(path)
    del data.RescaleSlope, data.RescaleIntercept
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.NumberOfFrames = frames
    data.PixelData = encapsulate(
        [imagecodecs.jpeg2k_encode(each, level=0, codecformat="j2k", mct=False) for each in pixels]
    )
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.save_as(path)
    np.testing.assert_array_equal(read_pixels(path, np.dtype(np.uint8)), pixels)


@pytest.mark.parametrize("slope", [None, "2"])
def test_floats_stay_floats(tmp_path, slope):
    values = (np.arange(16 * 24, dtype=np.float32) * 0.37 - 50).reshape(SHAPE)

    def store(number, data):
        for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"):
            delattr(data, name)
        data.BitsAllocated, data.FloatPixelData = 32, values.tobytes()
        if slope is not None:
            data.RescaleSlope, data.RescaleIntercept = slope, "1"

    image = read_image(write_series(tmp_path / "s", [0, 2], store))
    expected = values.astype(np.float64) if slope is None else values.astype(np.float64) * 2 + 1
    np.testing.assert_array_equal(image.array[:, :, 1], expected.T)


def test_floats_that_claim_to_be_integers_are_refused(tmp_path):
    def store(number, data):
        data.BitsAllocated, data.FloatPixelData = 32, bytes(4 * 16 * 24)
        del data.PixelData

    with pytest.raises(ImageError, match=r"02\.dcm: holds floats, but states BitsStored as integers do"):
        read_image(write_series(tmp_path / "s", [0, 2], store))


@pytest.mark.parametrize("signed", [0, 1])
def test_32_bits(tmp_path, signed):
    ends = np.iinfo(np.int32 if signed else np.uint32)
    values = np.linspace(ends.min, ends.max, 16 * 24).astype(ends.dtype).reshape(SHAPE)

    def store(number, data):
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 32, 32, 31, signed
        data.PixelData, data.RescaleIntercept = values.tobytes(), "-1024"

    image = read_image(write_series(tmp_path / "s", [0, 2], store))
    np.testing.assert_array_equal(image.array[:, :, 0], values.T.astype(np.int64) - 1024)


def test_big_endian(tmp_path):
    values = _values(16, 1, 16, 0)

    def store(number, data):
        data.PixelData = values.astype(">i2").tobytes()
        data.PixelRepresentation = 1

    folder = write_series(tmp_path / "s", [0, 2], store)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
        pydicom.dcmwrite(path, data, little_endian=False, implicit_vr=False, force_encoding=True)
    np.testing.assert_array_equal(read_image(folder).array[:, :, 0], values.T.astype(np.int64) - 1024)


@pytest.mark.parametrize("code", [None, RLELossless])
def test_values_in_other_bits_than_the_lowest_are_refused(tmp_path, code):
    """Old files hold 12 bits at the upper end of 16: the lowest 12 had been read, which are other values."""

    def store(number, data):
        data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 15, 0
        data.PixelData = (_values(12, 0, 16, number) << 4).tobytes()

    folder = write_series(tmp_path / "s", [0, 2], store)
    if code is not None:
        compress(folder, code)
    with pytest.raises(ImageError, match=r"its HighBit is 15 with 12 bits stored, not 11; correct it"):
        read_image(folder)


def test_a_table_that_holds_nothing_is_none(tmp_path):
    """Its slope and intercept count: the values below 0 had become large ones."""

    def store(number, data):
        data.ModalityLUTSequence = pydicom.Sequence([])

    image = read_image(write_series(tmp_path / "s", [0, 2], store))
    np.testing.assert_array_equal(np.unique(image.array), [-1024, -924])


def padded(stored, signed, value, limit=None, share=5):
    values = _values(11, 0, 16, 0)
    values = values.astype("i2" if signed else "u2")
    values[:, :share] = stored

    def store(_, data):
        data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 15, int(signed)
        data.PixelData = values.tobytes()
        for name, given in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)):
            if name in data:
                delattr(data, name)
            if given is not None:
                data.add_new(name, "SS" if signed else "US", given)

    return store


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (padded(-2000, True, -2000), ("its padding (PixelPaddingValue) is read as -3024, far below all other values",)),
        (
            padded(60000, False, 60000, 65535),
            ("its padding (PixelPaddingValue) is read as 58976 to 64511, far above all other values",),
        ),
        (padded(0, True, 0), ()),  # as air has it, no farther than the next value
        (padded(-2000, True, None), ()),
        (padded(-2000, True, -2000, share=0), ()),
        (padded(-2000, True, -2000, share=24), ()),
    ],
)
def test_padding_far_from_all_values_is_told(tmp_path, change, said):
    """It is read as ITK reads it, and who makes something of an image's range is told."""
    folder = write_series(tmp_path / "s", [0, 2], change)
    image = read_image(folder)
    assert image.notes == said
    stored = pydicom.dcmread(folder / "01.dcm")
    np.testing.assert_array_equal(image.array[:, :, 1], stored.pixel_array.T.astype(np.int64) - 1024)
