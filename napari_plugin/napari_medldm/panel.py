"""The dock widget that all verbs share: it holds choices and shows progress; the work happens elsewhere."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from medldm.errors import MedldmError, ModelError
from medldm.modality import DEFAULT, modality_of
from medldm.settings import make
from medldm.tasks import TASKS
from napari_medldm import text, view
from napari_medldm.engine import ENGINE
from napari_medldm.form import ALL, Form
from napari_medldm.jobs import Order, Outcome
from napari_medldm.layers import Snapshot, snapshot
from napari_medldm.queries import Queries
from napari_medldm.refused import Refused, has_volumes, refused, title
from napari_medldm.regions import Corners
from napari_medldm.results import Results, in_turns
from napari_medldm.runs import CANCELLED, FAILED, RUNS, Entry
from napari_medldm.viewing import Viewing
from napari_medldm.worker import title_of

FIRST = "restore"
SETTLED_MS = 400  # a plan is made when nothing was changed for this long
UNSAVED = {"the scan": "SCAN.nii.gz", "the region": "MASK.nii.gz"}  # names in a copied run of what lies in no file


class Panel(Form):
    """Choose a scan and settings, see the plan, preview, run, compare.

    Parameters
    ----------
    napari_viewer : given by napari
    verb : name of the task that is shown first
    """

    def __init__(self, napari_viewer: Any, verb: str = FIRST) -> None:
        self.mine: list[Entry] = []  # runs that this dock started, until their results are shown
        self.refusal: Refused | None = None
        self.closed = False
        self.timer = QTimer()
        self.timer.setSingleShot(True)
        self.queries = Queries()
        super().__init__(napari_viewer, verb)
        self.results = Results(self.viewer, self.compare)
        self.viewing = Viewing(self)
        self._connect()
        self.changed_scan()
        self.describe()

    def _connect(self) -> None:
        self.button.clicked.connect(self.run)
        self.preview.clicked.connect(self.run_preview)
        self.cancel.clicked.connect(self.stop)
        self.unload.clicked.connect(self.free)
        self.about.clicked.connect(lambda: setattr(self.card, "visible", not self.card.visible))
        self.copy_command.clicked.connect(lambda: self._copy(text.command_of))
        self.copy_python.clicked.connect(lambda: self._copy(text.python_of))
        self.model_file.clicked.connect(self._ask_for_model)
        self.scan.changed.connect(lambda _: self.changed_scan())
        self.remedy.clicked.connect(self.viewing.repair)
        self.use_all.clicked.connect(self.viewing.use_all)
        self.look_here.itemClicked.connect(lambda item: self.viewing.go_to(self.look_here.row(item)))
        for row in self.shared.values():
            row.changed.connect(lambda _: self.later())
        for one in self.pages.values():
            one.rows.on_change(self.later)
        self.timer.timeout.connect(self.describe)
        # Events of the viewer, which lives longer than the dock.
        layers, viewer = self.viewer.layers.events, self.viewer
        self.followed = [
            (layers.inserted, self._relist),
            (layers.removed, self._relist),
            (viewer.dims.events.point, self._moved),
            *self.viewing.followed,
        ]
        for event, call in self.followed:
            event.connect(call)
        RUNS.changed.connect(self._changed)
        # The widget dies with its window; what still runs must not talk to it afterwards.
        me = weakref.ref(self)
        self.destroyed.connect(lambda: _close(me))

    def hideEvent(self, event: Any) -> None:
        """Do nothing while nobody looks."""
        self.timer.stop()
        super().hideEvent(event)

    def showEvent(self, event: Any) -> None:
        """Catch up with what changed meanwhile."""
        super().showEvent(event)
        if not self.closed:
            self.viewing.presentation.letter_on(self)
            self.later()

    def turned_page(self) -> None:
        """Another task is shown: its plan, its model."""
        self.later()

    # What is chosen

    def _relist(self, _: Any = None) -> None:
        if self.closed:
            return
        for widget in (self.scan, self.where):
            widget.reset_choices()
        for one in self.pages.values():
            one.relist()
        self.compare.relist()
        self.viewing.relist()

    def snapshot(self) -> Snapshot:
        """The chosen layer as it is now.

        Raises
        ------
        ValueError
            None is chosen, or it is no scan.
        """
        if self.scan.value is None:
            raise ValueError("Open or choose a scan first.")
        return snapshot(self.scan.value, self.viewer)

    def options(self) -> dict[str, Any]:
        """Settings that differ from the defaults, checked.

        Raises
        ------
        UsageError
        """
        options = self.rows.options()
        make(TASKS[self.verb].settings, options)
        return options

    def _order(self, where: Corners | None = None, fast: bool = False) -> Order:
        if not self.page.needs_scan:
            return Order(self.verb, None, self.options())
        scan = self.snapshot()
        every = self.several and self.series.value == ALL and where is None
        mask = self.page.mask()
        return Order(
            self.verb, scan, self.options(), mask, where, every, self.difference.value, self.uncertainty.value, fast
        )

    # What will happen

    def changed_scan(self) -> None:
        """Another layer was chosen."""
        self.series.visible = self.several
        if self.scan.value is not None:
            self.viewing.present(self.scan.value)
            with suppress(MedldmError, ValueError):
                kind, thickness = modality_of(self.modality), self.snapshot().empty.stored.thickness_mm
                for one in self.pages.values():
                    one.rows.suit(kind, thickness)
                self.window_of.visible = kind.window is not None
        self.later()

    def later(self) -> None:
        """Make the plan anew, once the user has stopped turning knobs."""
        if not self.closed:
            self.timer.start(SETTLED_MS)

    def describe(self) -> None:
        """Say the plan and the model."""
        if self.closed:
            return
        self.queries.forget(self.plan)
        refusal = refused(self.scan.value) if self.scan.value is not None and self.page.needs_scan else None
        self._offer(refusal)
        try:
            self._say_card()
            if refusal is not None:
                self.plan.value = refusal.reason
                return
            if self.page.needs_scan and self.scan.value is None:
                self.plan.value = "Open or choose a scan first."
                return
            self.page.say_plan(self.options())
        except (MedldmError, ValueError) as problem:
            self.plan.value = text.for_dock(str(problem))

    def _offer(self, refusal: Refused | None) -> None:
        """Offer what helps where a scan is shown and not restored; runs where it is restored."""
        self.remedy.text = title(self.scan.value, self.viewer.dims.point) if refusal is not None else ""
        self.remedy.visible = bool(self.remedy.text)
        self.use_all.visible = refusal is not None and has_volumes(self.scan.value)
        self.remedies.visible = bool(self.remedy.text)
        self.refusal = refusal
        self._busy()

    def _moved(self, _: Any = None) -> None:
        """Name the volume that the slider is at."""
        if not self.closed and self.refusal is not None and self.scan.value is not None:
            self.remedy.text = title(self.scan.value, self.viewer.dims.point)

    def _say_card(self) -> None:
        try:
            self.card.value = text.describe(self.model, self.modality, self.verb)
        except ModelError as problem:
            self.card.value = text.for_dock(str(problem))

    @property
    def modality(self) -> str:
        """Of the chosen scan, as chosen or as it seems; MR while there is none."""
        said = self.shared["modality"].value
        if said != "auto":
            return str(said)
        return DEFAULT.name if self.scan.value is None else self.snapshot().modality

    def ask(self, verb: str, options: dict[str, Any], answered: Callable[[Outcome], None], into: Any) -> None:
        """Ask the computing process something short: a plan, a noise level.

        Parameters
        ----------
        verb : one of `jobs.ASKED`
        options : of the verb
        answered : gets the outcome
        into : label that tells the wait, or what went wrong
        """
        scan = self.snapshot() if self.page.needs_scan else None
        self.queries.ask(Order(verb, scan, options), answered, into)

    def ask_simply(self, verb: str, options: dict[str, Any], answered: Callable[[Outcome], None]) -> None:
        """Ask, and say in the status line what went wrong; see `ask`."""
        try:
            self.ask(verb, options, answered, self.status)
        except (MedldmError, ValueError) as problem:
            self.status.value = text.for_dock(str(problem))

    # The run

    def run(self) -> None:
        """Restore the whole volume, unless something runs already."""
        self._begin(lambda: self._order())

    def run_preview(self) -> None:
        """Restore the slice on the screen, or the box that was drawn: first fast, then with the chosen model."""
        self._begin(lambda: self._order(self.region(), fast=True))

    def region(self) -> Corners:
        """Where the preview looks, in the patient."""
        return view.region(self.where.value, self.snapshot())

    @property
    def run_now(self) -> Entry | None:
        """What this dock waits for first; others may wait behind it."""
        return self.mine[0] if self.mine else None

    def _begin(self, order: Callable[[], Order]) -> None:
        if self.refusal is not None:
            show_error(self.refusal.reason)
            return
        try:
            wanted = order()
        except (MedldmError, ValueError) as problem:
            # The words of the run before would seem to be about this one.
            self.bar.value, self.status.value = 0, text.for_dock(str(problem))
            show_error(text.for_dock(str(problem)))
            return
        self.queries.forget(self.status)
        for entry in self.mine if wanted.where is not None else ():
            if entry.preview:
                entry.cancel()  # a preview that is not waited for any more
        if not self.mine:
            self.bar.value, self.status.value = 0, "starting"
        self._start(wanted, self.scan.value if self.page.needs_scan else None)

    def _start(self, order: Order, before: Any) -> None:
        numbers = order.scan.numbers(every=order.every) if order.scan is not None else ()
        said = order.scan, order.verb, order.options, self.page.mask_name(), numbers
        spell = {"command": partial(text.command_of, *said), "python": partial(text.python_of, *said)}
        entry = RUNS.start(
            order, title=title_of(order), scan=before, show=self._done, viewer=self.viewer, **spell
        )  # fmt: skip
        self.mine.append(entry)
        self._busy()

    def stop(self) -> None:
        """Stop the run, within two seconds."""
        if self.run_now is not None:
            self.run_now.cancel()
            self.status.value = "cancelling"

    def free(self) -> None:
        """Free the model's memory."""
        if ENGINE.busy:
            show_info("The model is at work. Cancel the run first.")
            return
        ENGINE.unload()
        self.status.value = "The model is unloaded."

    def _busy(self) -> None:
        self.button.enabled = self.preview.enabled = self.refusal is None
        self.cancel.enabled = bool(self.mine)

    def _changed(self, entry: Entry) -> None:
        """A run went on or ended."""
        if self.closed or entry not in self.mine:
            return
        if entry.state in (FAILED, CANCELLED):
            self._ended(entry, entry.text)
            if entry.state == FAILED:
                show_error(entry.text)
        elif not entry.over and entry is self.run_now:
            self.bar.value = int(100 * entry.share)
            self.status.value = f"{_stage(entry)}{', '.join(filter(None, (entry.what, entry.remaining())))}"

    def _done(self, outcome: Outcome, entry: Entry) -> bool:
        """Show what came of a run; False where nobody is there to see it."""
        if self.closed:
            return False
        in_turns(self._show(outcome, entry))
        return True

    def _show(self, outcome: Outcome, entry: Entry) -> Iterator[None]:
        """Show what came of a run, in steps; the run has ended when all is shown."""
        made: list[Any] = []
        before, order = entry.scan, entry.order
        try:
            if not outcome.layers:
                show_info(outcome.text)
                return
            for _ in self.results.show(outcome, before, made):
                for layer in made[len(entry.layers) :]:
                    entry.added(layer)
                yield
                if self.closed:
                    return
            self.viewing.list_places(outcome.places, made[0])
            self.legend.value = text.legend(outcome) or "No slice or region was filled."
            self.notes.value = "\n".join(f"\u2022 {note}" for note in outcome.notes)
            self.notes.visible = bool(outcome.notes)
            if not entry.needs_scan:
                self.viewing.choose(made[0])
            elif before not in self.viewer.layers:
                show_info("The scan was removed during the run; its result was added all the same.")
        finally:
            refined = outcome.refinable and made and not self.closed and self.refine.value
            if refined and order is not None and before in self.viewer.layers:
                # A first look is there; whoever waits sees what the run will give.
                self.mine.remove(entry)
                self._start(replace(order, fast=False), before)
                self.status.value = f"first look: {outcome.text}; now refining it"
            else:
                self._ended(entry, outcome.text, 100)

    def _ended(self, entry: Entry, said: str, share: int = 0) -> None:
        if entry in self.mine:
            self.mine.remove(entry)
        if not self.closed:
            self._busy()
            if not self.mine:
                self.bar.value, self.status.value = share, said

    def _copy(self, spell: Callable[..., str]) -> None:
        try:
            scan, options = self.snapshot() if self.page.needs_scan else None, self.options()
            numbers = scan.numbers(every=self.series.value == ALL) if scan is not None else ()
            said = spell(scan, self.verb, options, self.page.mask_path(), numbers)
        except (MedldmError, ValueError) as problem:
            show_error(text.for_dock(str(problem)))
            return
        QApplication.clipboard().setText(said)
        first = [f"{what} as {name}" for what, name in UNSAVED.items() if name in said]
        self.status.value = f"copied; save {' and '.join(first)} first" if first else "copied"


def _stage(entry: Entry) -> str:
    """Which of the two runs of a preview goes on."""
    if not entry.preview or entry.order is None:
        return ""
    return "first look: " if entry.order.fast else "refining: "


def _close(panel: weakref.ref[Panel]) -> None:
    """The dock is gone: follow the viewer no longer, and say nothing any more. What runs goes on, see `runs`."""
    me = panel()
    if me is None or me.closed:
        return
    me.closed = True
    me.queries.close()
    for event, call in me.followed:
        event.disconnect(call)
    for one in me.pages.values():
        one.close()
    with suppress(RuntimeError):  # when the program ends, Qt may have deleted these first
        me.compare.close()
        me.viewing.close()
