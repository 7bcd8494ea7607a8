"""One study's DICOM objects, made with highdicom: structured report, segmentation, secondary captures.

UIDs come from what the object says (study, weights, results), so that the same run gives the same objects. BurnedInAnnotation
is NO in the standard's sense: what is drawn on the captures (boxes, numbers, the research notice) identifies nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom
from highdicom.sr.coding import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.uid import UID, generate_uid

from pipeline.records import NOTICE, Box, Detail
from pipeline.report.dicom.subject import Subject

MAKER = "drenet-pipeline"
MODEL = "DRE-Net"
SCHEME = "99DRENET"
PROBABILITY = CodedConcept("probability", SCHEME, "Probability of the positive class")
ATTENTION = CodedConcept("attention", SCHEME, "Attention weight of the detail")
DETAIL = CodedConcept("detail", SCHEME, "Detail attended by the network")
SCREENED = CodedConcept("slices", SCHEME, "Scored slices of the chest")
RED = (224, 0, 0)
WHITE = (255, 255, 255)
YELLOW = (255, 212, 0)


def structured_report(subject: Subject, box_from: float) -> hd.sr.Comprehensive3DSR:
    """TID 1500: the study's probability, and each finding's box as a closed polyline on its source image."""
    network = subject.network
    algorithm = hd.sr.AlgorithmIdentification(
        name=MODEL,
        version=network.version,
        parameters=[f"weights sha256 {network.sha256}", f"positive class {network.positive}", NOTICE],
    )
    device = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=_uid(subject, "device"), manufacturer_name=MAKER, model_name=MODEL
        ),
    )
    whole = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=_uid(subject, "whole"), identifier="study"),
        finding_type=SCREENED,
        algorithm_id=algorithm,
        measurements=[_measured(PROBABILITY, subject.result.probabilities[network.number])],
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(subject.originals[n]) for n in subject.slices],
    )
    boxes = [
        _region(subject, place, number, detail, algorithm)
        for place in sorted(subject.slices)
        for number, detail in subject.shown(place, box_from)
    ]
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[whole, *boxes],
        title=codes.DCM.ImagingMeasurementReport,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=subject.originals,
        content=report,
        series_number=9001,
        instance_number=1,
        **_identity(subject, "report"),
        is_complete=True,
        is_final=False,
        series_description=f"{MODEL} scores. {NOTICE}",
    )


def segmentation(subject: Subject) -> hd.seg.Segmentation:
    """The lungs on every slice read that shows any."""
    places = [place for place in range(len(subject.originals)) if subject.lungs[place].any()]
    lungs = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Lungs",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Lung,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="lung mask of drenet-pipeline", version=subject.network.version, family=codes.DCM.ArtificialIntelligence
        ),
    )
    return hd.seg.Segmentation(
        source_images=[subject.originals[place] for place in places],
        pixel_array=subject.lungs[places].astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[lungs],
        series_number=9002,
        instance_number=1,
        **_identity(subject, "lungs"),
        manufacturer_model_name=MODEL,
        software_versions=subject.network.version,
        device_serial_number="none",
        series_description=f"Lungs. {NOTICE}",
    )


def capture(subject: Subject, place: int, box_from: float, number: int) -> hd.sc.SCImage:
    """The slice at `place` with its lung's outline and its findings' boxes, in the matrix of the original."""
    original = subject.originals[place]
    image = hd.sc.SCImage(
        pixel_array=drawn(subject, place, box_from),
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        study_instance_uid=original.StudyInstanceUID,
        series_number=9003,
        instance_number=number,
        manufacturer=MAKER,
        patient_id=original.get("PatientID"),
        patient_name=original.get("PatientName"),
        patient_birth_date=original.get("PatientBirthDate"),
        patient_sex=original.get("PatientSex"),
        accession_number=original.get("AccessionNumber"),
        study_id=original.get("StudyID"),
        study_date=original.get("StudyDate"),
        study_time=original.get("StudyTime"),
        referring_physician_name=original.get("ReferringPhysicianName"),
        patient_orientation=_towards(original.ImageOrientationPatient),
        series_instance_uid=_uid(subject, "captures"),
        sop_instance_uid=_uid(subject, "capture", place),
    )
    image.BodyPartExamined = "CHEST"
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.BurnedInAnnotation = "NO"
    image.RecognizableVisualFeatures = "NO"
    image.SeriesDescription = f"{MODEL} overlays. {NOTICE}"
    source = pydicom.Dataset()
    source.ReferencedSOPClassUID = original.SOPClassUID
    source.ReferencedSOPInstanceUID = original.SOPInstanceUID
    image.SourceImageSequence = [source]
    return image


def drawn(subject: Subject, place: int, box_from: float) -> npt.NDArray[np.uint8]:
    """The overlay, RGB [row, column, 3]."""
    picture = cv2.cvtColor(subject.grey[place], cv2.COLOR_GRAY2RGB)
    outline, _ = cv2.findContours(subject.lungs[place].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outline, -1, YELLOW, 1)
    for number, detail in subject.shown(place, box_from):
        top, left, bottom, right = (round(edge) for edge in _edges(detail.original, picture.shape))
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), WHITE, 3)
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), RED, 1)
        cv2.putText(picture, str(number), (left + 3, top + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, WHITE, 1, cv2.LINE_AA)
    cv2.putText(picture, NOTICE, (4, picture.shape[0] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.35, WHITE, 1, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def _towards(cosines: Sequence[float]) -> tuple[str, str]:
    """Which way the image's rows and columns run, nearest anatomical direction each."""
    rows, columns = ([float(one) for one in part] for part in (cosines[:3], cosines[3:]))
    across, down = (max(range(3), key=lambda axis: abs(part[axis])) for part in (rows, columns))
    return "LPH"[across] if rows[across] > 0 else "RAF"[across], "LPH"[down] if columns[down] > 0 else "RAF"[down]


def _region(subject: Subject, place: int, number: int, detail: Detail, algorithm: Any) -> Any:
    original = subject.originals[place]
    top, left, bottom, right = _edges(detail.original, (int(original.Rows), int(original.Columns)))
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]])
    region = hd.sr.ImageRegion(
        graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
        graphic_data=corners,
        source_image=hd.sr.SourceImageForRegion.from_source_image(original),
    )
    tracking = hd.sr.TrackingIdentifier(uid=_uid(subject, "box", place, number), identifier=f"slice {place} detail {number}")
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_region=region,
        finding_type=DETAIL,
        algorithm_id=algorithm,
        measurements=[_measured(PROBABILITY, detail.probability), _measured(ATTENTION, detail.attention)],
    )


def _measured(name: CodedConcept, value: float) -> hd.sr.Measurement:
    return hd.sr.Measurement(name=name, value=round(value, 6), unit=codes.UCUM.NoUnits)


def _edges(box: Box, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """A box cut at the image's edge."""
    rows, columns = shape[:2]
    top, bottom = (min(max(edge, 0.0), float(rows)) for edge in (box.top, box.bottom))
    left, right = (min(max(edge, 0.0), float(columns)) for edge in (box.left, box.right))
    return top, left, bottom, right


def _identity(subject: Subject, what: str) -> dict[str, Any]:
    return {
        "series_instance_uid": _uid(subject, what, "series"),
        "sop_instance_uid": _uid(subject, what),
        "manufacturer": MAKER,
    }


def _uid(subject: Subject, *parts: object) -> UID:
    study = subject.originals[0].StudyInstanceUID
    said = (study, subject.network.sha256, subject.result.probabilities, *parts)
    return generate_uid(entropy_srcs=["drenet dicom out", *map(str, said)])
