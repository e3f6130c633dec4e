"""Many scans: find, restore one after another or on a cluster, write, and keep a ledger."""

from medldm.batch.case import one_case
from medldm.batch.ledger import Result, hash_files
from medldm.batch.options import Options, Run, Watch
from medldm.batch.outputs import Protected
from medldm.batch.runner import run_batch
from medldm.batch.summary import Row

__all__ = ["Options", "Protected", "Result", "Row", "Run", "Watch", "hash_files", "one_case", "run_batch"]
