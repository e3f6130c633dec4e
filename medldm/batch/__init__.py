"""Many scans, one after another."""

from medldm.batch.options import Options, Run, Watch
from medldm.batch.places import Protected
from medldm.batch.record import Record, hash_files
from medldm.batch.runner import run_batch
from medldm.batch.summary import Row
from medldm.batch.work import one_case

__all__ = ["Options", "Protected", "Record", "Row", "Run", "Watch", "hash_files", "one_case", "run_batch"]
