"""Pixels of one DICOM image: decoded by a codec in a process of its own, rescaled, padding recognised."""
