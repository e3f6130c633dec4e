"""Many scans: find them, restore them, write results and records.

- ``runner``: from IN to OUT; ``options``: what it is asked to do; ``outputs``: where results may lie
- ``local``, ``dask_queue``: the cases in this process, or on a cluster (``dask_cluster``)
- ``case``, ``steps``: one case, and its steps; ``forecast``: memory and time that it takes
- ``publish``, ``ledger``, ``bids``: files of a result, its record, its names and sidecars in BIDS
- ``summary``, ``caselog``: outcomes of all cases, what was logged about one
"""

from medldm.batch.case import one_case
from medldm.batch.ledger import Result, hash_files
from medldm.batch.options import Options, Run, Watch
from medldm.batch.outputs import Protected
from medldm.batch.runner import run_batch
from medldm.batch.summary import Row

__all__ = ["Options", "Protected", "Result", "Row", "Run", "Watch", "hash_files", "one_case", "run_batch"]
