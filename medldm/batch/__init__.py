"""Many scans, one after another."""

from medldm.batch.ledger import Record, hash_files
from medldm.batch.one_case import one_case
from medldm.batch.options import Options, Run, Watch
from medldm.batch.outputs import Protected
from medldm.batch.runner import run_batch
from medldm.batch.summary import Row

__all__ = ["Options", "Protected", "Record", "Row", "Run", "Watch", "hash_files", "one_case", "run_batch"]
