"""Many scans, one after another."""

from medldm.batch.record import Record
from medldm.batch.runner import Options, Watch, run_batch
from medldm.batch.summary import Row

__all__ = ["Options", "Record", "Row", "Watch", "run_batch"]
