"""Studies for archives: small series with UIDs of their own."""

import numpy as np
import pydicom
from dicom_series import AXIAL, tags, write_series

STUDY, SERIES = "1.2.840.99.1", "1.2.840.99.1.7"


def slices(folder, count=4, *, study=STUDY, series=SERIES, first=0, modality="MR", description="t1"):
    """Write slices of a series; return them in the order of their places."""
    uids = [f"{series}.{first + number + 1}" for number in range(count)]
    about = tags(
        SOPInstanceUID=uids, StudyInstanceUID=[study] * count, SeriesInstanceUID=[series] * count,
        SeriesDescription=[description] * count, Modality=[modality] * count,
    )  # fmt: skip

    def change(number, data):
        about(number, data)
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        values = np.random.default_rng(first + number).integers(0, 1000, (16, 24)).astype(np.int16)
        data.PixelData = values.tobytes()
        data.PatientName, data.PatientID = "Geheim^Gerda", "geheim-4711"

    write_series(folder, [2.0 * (first + number) for number in range(count)], change, turn=AXIAL)
    return sorted(folder.iterdir(), reverse=True)


def instances(archive, study=STUDY, modality="SEG"):
    """Return UID of study, series and instance of all objects of a kind."""
    return [
        (study, series.uid, uid)
        for series in archive.series(study)
        if series.modality == modality
        for uid in sorted(archive.instances(study, series.uid))
    ]


def mask_of(path):
    """Return a DICOM segmentation as class indices ``(X, Y, Z)``, by highdicom."""
    import highdicom

    seg = highdicom.seg.segread(path)
    sources = [uid for *_, uid in seg.get_source_image_uids()]
    frames = seg.get_pixels_by_source_instance(sources, combine_segments=True, ignore_spatial_locations=True)
    places = {uid: number for number, uid in enumerate(sources)}
    order = sorted(sources, key=lambda uid: int(uid.rpartition(".")[2]))
    return np.stack([frames[places[uid]] for uid in order]).transpose(2, 1, 0)


def read(dataset, path):
    """Write a data set to a file; return it."""
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path
