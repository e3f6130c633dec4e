"""A dry run: the run itself, as far as the network."""

from __future__ import annotations

from dataclasses import replace

from medldm.batch.cases import AtTheNetwork, Ready, compute, told
from medldm.batch.forecast import forecast
from medldm.batch.options import Run, Watch
from medldm.batch.summary import TO_DO, Row
from medldm.io.sidecars import results_folder


def rehearse(run: Run, ready: Ready) -> Row:
    """What a run would do with a case: the run itself, as far as the network.

    Parameters
    ----------
    run : a dry run
    ready : case that was read

    Raises
    ------
    MedldmError
        As the run would.
    """
    name, target = ready.case.place.as_posix(), ready.target
    quiet = replace(run, watch=Watch())
    try:
        result = compute(quiet, ready)
    except AtTheNetwork:
        result = None
    if result is ready.volume:
        why = ready.plan.words() if ready.plan else "there is nothing to do"
        return Row(name, TO_DO, 0.0, f"would write a copy of the input to {target}; {why}")
    ahead, seconds = forecast(ready.volume, run.verb, run.settings, ready.plan, results_folder(target))
    return Row(name, TO_DO, seconds, f"would write {target}; {told(run, ready).rstrip('.')}; {ahead}")
