"""DICOM outputs, on request only: they refer to the original instances and carry the patient's identity by design.

A study gives up to three kinds of object in a folder of its own: a structured report (TID 1500), a segmentation of the lungs,
and secondary captures of the top slices. All stand in the stored images' own matrix. This room is the door to highdicom.
"""

from importlib.util import find_spec

from pipeline.errors import ConfigurationError

if find_spec("highdicom") is None:
    raise ConfigurationError("DICOM outputs need highdicom: pip install 'drenet-pipeline[dicom-out]'")

from pipeline.report.dicom.output import Written, write_dicom

__all__ = ["Written", "write_dicom"]
