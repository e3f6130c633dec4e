"""DICOM in and out: series found by content and judged by geometry; results as derived series."""

from medldm.io.dicom.derived import write_series
from medldm.io.dicom.header import damage, is_dicom
from medldm.io.dicom.parametric import write_uncertainty
from medldm.io.dicom.pixels import read_series
from medldm.io.dicom.series import Series, find_series

__all__ = ["Series", "damage", "find_series", "is_dicom", "read_series", "write_series", "write_uncertainty"]
