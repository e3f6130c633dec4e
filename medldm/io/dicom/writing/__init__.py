"""Results as DICOM: derived series and parametric maps, with their sources cited."""
