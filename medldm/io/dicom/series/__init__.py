"""DICOM series: found, grouped, placed on a grid, cleaned and read as volumes."""
