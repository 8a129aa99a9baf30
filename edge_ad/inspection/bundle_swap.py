"""Another bundle for a product of a running line: proven beside the running one, then exchanged between two frames.

``BundleReplacement`` takes the requests; ``BundleSwap`` is one exchange, for which ``Changeover`` keeps the moment.

The contract. A bundle is opened and its engines are proven on its golden images while the running one goes on judging. Only then
verdicts of the product become NONE; the pointer file beside the store is replaced, which is the acknowledge; between two frames,
at the latest after two frame times, the loop has the new judge, and verdicts are given again. What fails before the acknowledge
changes nothing but the audit trail, and says why. A run that is killed comes up with the bundle that was acknowledged last. The
bundle before stays where it is, and a rollback is the same exchange with it. Where engines belong to the thread of the loop
(TensorRT) they are opened and proven there: verdicts are NONE for as long as that takes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from edge_ad.config import Config
from edge_ad.errors import BadInput, DeviceFault, EdgeAdError
from edge_ad.inspection.requests import Request, ask_run
from edge_ad.store.actions import Action, ActionLog, action_log
from edge_ad.store.next_run import BundlePointer, Deployed, bundle_key, pointer_path, product_and_view
from edge_ad.utils.files import newest_bundle
from edge_ad.utils.locks import lock_file
from edge_ad.utils.supervision import SupervisedThread, ThreadFaults

if TYPE_CHECKING:  # a command needs neither OpenCV nor engines
    from edge_ad.inspection.changeover import Changeover
    from edge_ad.inspection.products import Product

_log = logging.getLogger(__name__)

POLL_S = 0.1
WAIT_S = 300.0  # for the proof of engines
REPLACE, ROLL_BACK, STATE = "replace", "rollback", "bundles"  # kinds of requests


@dataclass(eq=False)
class BundleSwap:
    """One exchange: ``fresh`` in the place of ``old``, None where that cannot be opened, as the product ``name``.

    ``prove`` opens and proves the engines of ``fresh``, ``commit`` writes to the disk that it is in use, and ``revert`` takes that
    back. ``done`` is set when one of both is in force; ``error``: why it is the old one. ``unused``: what may be closed then.
    """

    name: str
    old: Product | None
    fresh: Product
    prove: Callable[[], None]
    commit: Callable[[], None]
    revert: Callable[[], None]
    prepared: bool = False
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)
    acknowledged: bool = False  # on the disk; the next run begins with it
    _acknowledging: threading.Lock = field(default_factory=threading.Lock)

    @property
    def in_loop(self) -> bool:
        """Whether the engines belong to the thread of the loop."""
        return self.old is not None and self.old.in_loop

    def acknowledge(self, changed: threading.Condition, closed: threading.Event) -> None:
        """Write to the disk that the new bundle is in use, wake the loop by ``changed``, and wait until it has taken it over."""
        if not self.in_loop:
            try:
                with self._acknowledging:
                    if self.error is None:
                        self.commit()
                        self.acknowledged = True
            except Exception as error:
                self.error = error
        self.prepared = True
        with changed:
            changed.notify_all()
        while not self.done.wait(POLL_S) and not closed.is_set():
            pass

    def give_up(self) -> None:
        """Leave the old one in force because the run ends; one that is acknowledged already is the next run's."""
        with self._acknowledging:
            if self.error is None and not self.acknowledged:
                self.error = BadInput("the run has ended meanwhile: ask the next one")

    def bring_in(self, on_change: Callable[[Product], None] | None) -> bool:
        """Have ``on_change`` (None: another product is judged) judge by the new bundle; False where the old one goes on.

        In the thread of the loop.
        """
        try:
            if self.error is None and self.in_loop:
                self.prove()
                self.commit()
                self.acknowledged = True
        except Exception as error:
            self.error = error
        if self.error is None and on_change is not None:
            try:
                on_change(self.fresh)
            except Exception as error:
                self.error, self.acknowledged = error, False
                self.revert()
                if self.old is not None:
                    on_change(self.old)
        if self.in_loop:
            self.close_unused()
        return self.error is None

    def close_unused(self) -> None:
        """Close the engines that are not judged by any more."""
        unused = self.old if self.error is None else self.fresh
        if unused is not None:
            unused.close()


class BundleReplacement:
    """Replaces bundles of a run, one at a time, in a thread of its own, and tells how that stands.

    ``make`` makes a product of a name, the path of a bundle and the view that it is for, "" without views; ``fit`` raises where the
    loop could not judge by a product.
    """

    def __init__(
        self,
        changeover: Changeover,
        pointer: BundlePointer,
        make: Callable[[str, Path, str], Product],
        fit: Callable[[Product], None],
        *,
        log: ActionLog | None = None,
        threads: ThreadFaults | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._changeover = changeover
        self._pointer = pointer
        self._make = make
        self._fit = fit
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"number": 0, "state": "idle"}
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._complete_log()
        SupervisedThread("bundle", self._run, threads, on_fault=self._broke).start()

    def handle(self, request: Request) -> str:
        """Take a request of kind ``replace`` (product, view, bundle, reason) or ``rollback`` (product, view, reason).

        Returns a sentence that ends in the number of the request, whose outcome ``answer_state`` tells. BadInput where it is
        refused at once.
        """
        name = request.value("product")
        if name not in self._changeover.products and name not in self._changeover.faults:
            known = ", ".join(self._changeover.products) or "none"
            raise BadInput(f"there is no product {name!r}; there are {known}" if name else f"name one of the products {known}")
        product, view = self._changeover.products.get(name), request.value("view")
        check_view(next(iter(self._changeover.products.values())).settings, view)
        judging = product.views[view] if product is not None and view else product
        before = self._before(name) if judging is None else judging.bundle.path
        with self._lock:
            if self._state["state"] == "working":
                raise BadInput("a bundle is being replaced already: wait until that is done")
            used = None if judging is None else judging.bundle.sha256
            path, entry = wanted(self._pointer, request, before, used)
            number = self._state["number"] + 1
            about = {"product": name, "view": view, "bundle": str(path), "sha256": entry.current.sha256}
            self._state = {"number": number, "state": "working", **about}
        self._work.put(lambda: self._replace(name, view, path, entry))
        return f"{path} is being proven for {name or 'this station'}: {number}"

    def answer_state(self, request: Request) -> str:
        """Answer a request of kind ``bundles`` as JSON: ``number`` and ``state`` of the last replacement (idle, working, done,
        failed), its ``product``, ``view``, ``bundle``, ``sha256``, ``error`` and ``swap_s``, and the bundles that are in use, those
        of views as ``PRODUCT/VIEW``, with the ``thresholds`` in force where their engines are open.
        """
        used = {
            bundle_key(name, view): _in_use(one)
            for name, product in self._changeover.products.items()
            for view, one in (product.views or {"": product}).items()
        }
        with self._lock:
            return json.dumps({**self._state, "in_use": used})

    def close(self) -> None:
        """End the thread; what is under way and not acknowledged is given up."""
        self._work.put(None)

    def _before(self, name: str) -> Path:
        """Return the bundle of a product that cannot be judged."""
        settings = next(iter(self._changeover.products.values())).settings
        bundle = settings.product[name].bundle
        if bundle is None or settings.part.views:
            raise BadInput(f"product {name} cannot be judged: name other bundles in edge-ad.toml and start the run again")
        return bundle

    def _replace(self, name: str, view: str, path: Path, entry: Deployed) -> None:
        fresh: Product | None = None
        try:
            fresh = self._make(name, path, view)
            judging = fresh.views[view] if view else fresh
            if judging.bundle.sha256 != entry.current.sha256:
                raise BadInput(f"{path} was changed while it was read: copy it whole, then ask again")
            swap = self._swap(name, bundle_key(name, view), fresh, entry)
            if not swap.in_loop:
                swap.prove()
            began = self._clock()
            self._changeover.swap(swap)
            if swap.error is not None:
                raise swap.error
        except Exception as error:
            if fresh is not None and not fresh.in_loop:
                fresh.close()
            self._failed(bundle_key(name, view), path, entry, error)
            return
        if not swap.done.is_set():  # the loop ended first, and closes what it judges by
            if not fresh.in_loop:
                fresh.close()
            _log.warning("%s is judged by from the next run on: this one ended first", path)
        elif not swap.in_loop:
            swap.close_unused()
        with self._lock:
            self._state |= {"state": "done", "swap_s": self._clock() - began}
        what = f" of {bundle_key(name, view)}" if name or view else ""
        _log.info("%s: %s judges in the place of the bundle%s before, by %s", entry.kind, path, what, entry.by)

    def _swap(self, name: str, key: str, fresh: Product, entry: Deployed) -> BundleSwap:
        before = self._pointer.entries().get(key)

        def prove() -> None:
            fresh.open()
            self._fit(fresh)

        def commit() -> None:
            self._pointer.write(key, entry)
            self._keep(entry.kind, key, entry)

        def revert() -> None:
            self._pointer.write(key, before)

        return BundleSwap(name, self._changeover.products.get(name), fresh, prove, commit, revert)

    def _failed(self, key: str, path: Path, entry: Deployed, error: Exception) -> None:
        text = str(error) if isinstance(error, EdgeAdError) else f"{type(error).__name__}: {error}"
        _log.error("%s is not judged by (%s): the bundle before goes on", path, text)
        self._keep(f"{entry.kind}-failed", key, entry, why=text)
        with self._lock:
            self._state |= {"state": "failed", "error": text}

    def _keep(self, kind: str, key: str, entry: Deployed, **more: str) -> None:
        if self._log is not None:
            self._log.keep(action_of(entry, key, kind, **more))

    def _complete_log(self) -> None:
        """Write what a kill kept out of the audit trail: replacements that the pointer file has and the trail has not."""
        if self._log is None:
            return
        logged = {action.time for action in self._log.actions() if action.kind in (REPLACE, ROLL_BACK)}
        for key, entry in self._pointer.entries().items():
            if entry.time not in logged:
                self._keep(entry.kind, key, entry)

    def _broke(self, error: BaseException) -> None:
        """Let the one who asked know of an unforeseen exception; the next one is taken when the thread is started again."""
        with self._lock:
            self._state |= {"state": "failed", "error": f"{type(error).__name__}: {error}"}

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def _in_use(product: Product) -> dict[str, Any]:
    thresholds = product.judge.thresholds if product.opened else None
    limits = None if thresholds is None else {"warn": thresholds.warn, "ng": thresholds.ng}
    return {"bundle": str(product.bundle.path), "sha256": product.bundle.sha256, "thresholds": limits}


def check_view(settings: Config, view: str) -> None:
    """Raise BadInput for the name of a view, "" for none, that a request about one bundle must not have."""
    views = ", ".join(settings.part.views)
    if views and view not in settings.part.views:
        what = f"there is no view {view!r:.80}" if view else "each view of a part has its own bundle here"
        raise BadInput(f"{what}: name one by --view, of {views}")
    if view and not views:
        raise BadInput(f"there is no view {view!r:.80}: edge-ad.toml names none under [part], so leave --view out")


def wanted(pointer: BundlePointer, request: Request, before: Path, used: str | None = None) -> tuple[Path, Deployed]:
    """Return the bundle that a request asks for in the place of ``before``, and what the pointer file is to say of it.

    ``used``: the sha256 of the bundle that is judged by (None: that of the file), which may have been overwritten since.
    """
    if not request.by:
        raise BadInput(f"who asks for the {request.kind}? Give a name by --by NAME")
    key = _key_of(request)
    who = {"by": request.by, "origin": request.origin, "reason": request.value("reason")}
    if request.kind == ROLL_BACK:
        entry = pointer.rolled_back(key, used=used, **who)
        return pointer.locate(entry.current), entry
    path = Path(request.value("bundle"))
    if not path.is_absolute() or not path.is_file():
        raise BadInput(f"there is no bundle {path}: name a file *.edgead by its whole path")
    entry = pointer.replaced(key, before, path, used=used, **who)
    compared = request.value("compared")
    if compared not in ("", entry.earlier[-1].sha256):
        raise BadInput(f"{path} was compared with another bundle than the one in use by now: compare it again")
    if entry.current.sha256 == entry.earlier[-1].sha256:
        raise BadInput(f"{path} is the bundle that is in use already")
    asked = request.value("sha256")
    if asked not in ("", entry.current.sha256):
        raise BadInput(f"{path} has other bytes than were asked for (sha256 {asked[:12]}): bring it anew")
    return path, entry


def _key_of(request: Request) -> str:
    return bundle_key(request.value("product"), request.value("view"))


def action_of(entry: Deployed, key: str, kind: str | None = None, **more: str) -> Action:
    """Return a replacement as an action of the audit trail; ``key`` as ``bundle_key`` makes it."""
    name, view = product_and_view(key)
    before = entry.earlier[-1].sha256 if entry.kind == REPLACE and entry.earlier else None
    details = {"product": name or None, "bundle": entry.current.file, "bundle_sha256": entry.current.sha256, "before": before}
    more |= {"view": view} if view else {}
    return Action(kind or entry.kind, entry.by, entry.origin, entry.reason, entry.time, {**details, **more})


def replace_bundle(settings: Config, store: Path, request: Request, named: Path | None = None) -> str:
    """Have a bundle replaced, or rolled back, as ``BundleReplacement.handle`` takes it, and return what was done in a sentence.

    The run that keeps ``store`` does it between two parts. Where none runs, the engines are opened and proven here, and the next
    run begins with the bundle; ``named`` is what that run is given where the station has no products. BadInput or DeviceFault
    where it is refused: the bundle before stays in use.
    """
    before = BundlePointer(pointer_path(store)).entries().get(_key_of(request))
    answer = ask_run(store, request)
    if answer is None:
        return _replace_at_rest(settings, store, request, named)
    number = int(answer.rsplit(":", 1)[1])
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        text = ask_run(store, replace(request, kind=STATE, values={}))
        if text is None:
            return _acknowledged(store, request, before)
        state = json.loads(text)
        if state["number"] != number or state["state"] == "failed":
            why = state.get("error", "another was asked for")
            raise DeviceFault(f"{state['bundle']} is not judged by: {why}; the one before goes on")
        if state["state"] == "done":
            return f"{state['bundle']} is judged by now; the exchange took {1000 * state['swap_s']:.0f} ms"
        time.sleep(POLL_S)
    raise DeviceFault(f"the proof takes longer than {WAIT_S:g} s: look at the log of the run")


def _acknowledged(store: Path, request: Request, before: Deployed | None) -> str:
    """Return what became of a request whose run has ended; DeviceFault where the pointer file does not say that it was done."""
    pointer = BundlePointer(pointer_path(store))
    entry = pointer.entries().get(_key_of(request))
    if entry is None or entry == before or (entry.kind, entry.by) != (request.kind, request.by):
        raise DeviceFault(f"the run that keeps {store} ended meanwhile; the next one says by which bundle it judges")
    return f"{pointer.locate(entry.current)} is judged by from the next run on; the run ended meanwhile"


def _replace_at_rest(settings: Config, store: Path, request: Request, named: Path | None) -> str:
    """Prove a bundle and write that the next run begins with it."""
    from edge_ad.inspection.viewed_product import bundle_of_view

    name, view, pointer = request.value("product"), request.value("view"), BundlePointer(pointer_path(store))
    key = _key_of(request)
    check_view(settings, view)
    if (name and name not in settings.product) or (not name and settings.product):
        raise BadInput(f"there is no product {name!r}; edge-ad.toml has {', '.join(settings.product) or 'none'}")
    if not store.parent.is_dir():
        raise BadInput(f"there is no folder {store.parent} for a store: name that of the station by --store")
    release = lock_file(store.with_name(f"{store.name}.lock"), f"the store {store}", "its run takes no requests; end it")
    try:
        own = bundle_of_view(settings, name or None, view) if view else settings.product[name].bundle if name else None
        before = own or named or newest_bundle()
        used = pointer.sha256_in_use(key, before)
        if request.kind == REPLACE:  # a rollback needs no file of the bundle that it leaves
            before = pointer.resolve(key, before)
        path, entry = wanted(pointer, request, before, used)
        _prove(settings, request, path, named=named, pointer=pointer)
        pointer.write(key, entry)
        action_log(store).keep(action_of(entry, key))
    finally:
        release()
    return f"{path} is judged by from the next run on; no run keeps {store} now"


def _prove(settings: Config, request: Request, path: Path, *, named: Path | None, pointer: BundlePointer) -> None:
    """Open and prove the engines of a bundle, with those of the other views of its product; BadInput where it does not fit."""
    from edge_ad.camera.health import HealthLimits
    from edge_ad.inspection.products import open_product
    from edge_ad.inspection.viewed_product import open_viewed

    name, view = request.value("product"), request.value("view")
    if view:
        limits = HealthLimits()
        product = open_viewed(name, settings, named, pointer, limits=limits, read_again=None, instead={view: path})
    else:
        product = open_product(settings, name, path, image_bits=None)
    with contextlib.closing(product):
        product.open()
