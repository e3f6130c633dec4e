"""DICOM in and out: series found by content and judged by geometry; results as derived series.

``header`` says what one image is, ``pixels`` decodes it, ``series`` finds images that form a volume and reads them,
``writing`` makes derived series and parametric maps. Imports go from the last to the first.
"""

from medldm.io.dicom.header.files import damage, is_dicom
from medldm.io.dicom.series.find import find_series
from medldm.io.dicom.series.read import read_series
from medldm.io.dicom.series.stack import Series
from medldm.io.dicom.writing.parametric_map import write_uncertainty
from medldm.io.dicom.writing.series import write_series

__all__ = ["Series", "damage", "find_series", "is_dicom", "read_series", "write_series", "write_uncertainty"]
