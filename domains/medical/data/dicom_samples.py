"""A simulated scan as a CT series in DICOM, as a scanner would send it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from domains.medical.data.phantom_ct import Phantom

_INTERCEPT = -1024


def write_series(folder: Path, phantom: Phantom, patient: int, seed: int) -> list[Path]:
    """Write one file per axial slice into `folder`; return them from the feet up.

    Rows run from anterior to posterior and columns from the patient's right to left (DICOM's LPS);
    files are numbered from the head down, as scanners often do, so that readers have to sort.

    Args:
        folder: made where it is missing.
        phantom: with axes closest to right, anterior, superior; its first channel is CT.
        patient: number in names and identifiers.
        seed: in the unique identifiers, so that other data have others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    to_lps = np.diag([-1.0, -1.0, 1.0])
    axes = to_lps @ phantom.affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    across, down = -axes[:, 0] / spacing[0], -axes[:, 1] / spacing[1]
    slices = phantom.image[0][::-1, ::-1]
    stored = np.clip(np.rint(slices - _INTERCEPT), 0, 4095).astype(np.uint16)
    depth = stored.shape[2]
    files = []
    for number in range(depth):
        place = (
            phantom.affine[:3, :3] @ [stored.shape[0] - 1, stored.shape[1] - 1, number]
            + phantom.affine[:3, 3]
        )
        dataset = _slice(f"{seed}/{patient}", patient, depth - number)
        dataset.PixelSpacing = [f"{spacing[1]:.6g}", f"{spacing[0]:.6g}"]
        dataset.SliceThickness = f"{spacing[2]:.6g}"
        dataset.ImageOrientationPatient = [f"{value:.10g}" for value in (*across, *down)]
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in to_lps @ place]
        dataset.SliceLocation = f"{place[2]:.6g}"
        dataset.Columns, dataset.Rows = stored.shape[:2]
        dataset.PixelData = np.ascontiguousarray(stored[:, :, number].T).tobytes()
        path = folder / f"IM{depth - number:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def _slice(key: str, patient: int, number: int) -> FileDataset:
    """Return a slice without its pixels and place."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(key, "slice", number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = _uid(key, "study", 0)
    dataset.SeriesInstanceUID = _uid(key, "series", 0)
    dataset.FrameOfReferenceUID = _uid(key, "frame", 0)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality = "CT"
    dataset.Manufacturer = "Simulated"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20240102"
    dataset.StudyTime = dataset.ContentTime = "101500"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = (
        dataset.PositionReferenceIndicator
    ) = ""
    dataset.StudyID = "1"
    dataset.PatientName = f"Simulated^Patient {patient + 1}"
    dataset.PatientID = f"SIM{patient + 1:03d}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.PatientPosition = "HFS"
    dataset.BodyPartExamined = "ABDOMEN"
    dataset.SeriesDescription = "Abdomen, portal venous phase"
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = 2, number, 1
    dataset.KVP = "120"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept, dataset.RescaleSlope = str(_INTERCEPT), "1"
    dataset.RescaleType = "HU"
    dataset.WindowCenter, dataset.WindowWidth = "50", "400"
    return dataset


def _uid(key: str, kind: str, number: int) -> UID:
    return generate_uid(entropy_srcs=["heed sample", key, kind, str(number)])
