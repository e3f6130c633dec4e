"""What was done to a scan, as the file beside its result says it."""

from medldm.provenance.record import RunRecord, Source, package_version

__all__ = ["RunRecord", "Source", "package_version"]
