"""Which product a station judges, and the change from one to another: requests, memory, and what survives a restart.

From a request until the change is acknowledged nothing is judged. A change that is asked for is first written to the disk
as "none"; the new product is written after it was acknowledged. So a run that is killed at any moment comes up with the
last acknowledged product or with none, never with another.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any

from edge_ad.config import ProductTable
from edge_ad.errors import BadInput, EdgeAdError
from edge_ad.inspection.bundle_swap import POLL_S, BundleSwap
from edge_ad.inspection.judge import BEFORE, CHANGING, PREFIX, REPLACING
from edge_ad.inspection.part_tracking import Judgeable
from edge_ad.inspection.products import Change, Product, ProductStatus, memory_of, why
from edge_ad.inspection.requests import Request
from edge_ad.inspection.triggers import MqttCommands
from edge_ad.outputs.mqtt import parse_broker
from edge_ad.store.next_run import Choice
from edge_ad.utils.supervision import SupervisedThread, ThreadFaults
from edge_ad.utils.text import storable

_log = logging.getLogger(__name__)

MAX_MESSAGE = 1000


class Changeover:
    """Keeps the products of a run and changes between them.

    ``select`` may be called from any thread; a thread of its own opens what is parked and writes to the disk. The loop asks
    ``withheld`` before and after every judgement, and calls ``tick``, in which a change comes into force: ``on_change`` hears of
    the product, ``on_standing`` of everything that a PLC must know. ``set_cameras`` is called before that, in the thread of
    products, and may wait. ``faults``: why products cannot be judged. Beyond ``budget_mb`` those used longest ago are parked.
    """

    def __init__(
        self,
        products: Mapping[str, Product],
        faults: Mapping[str, str],
        *,
        choice: Choice,
        budget_mb: float | None = None,
        changed: threading.Condition | None = None,
        threads: ThreadFaults | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.products = dict(products)
        self.faults = dict(faults)
        self.budget_mb = budget_mb
        self.changes = 0
        self.last_change_s: float | None = None
        self.active: Product | None = None
        self.on_change: Callable[[Product], None] = lambda product: None
        self.on_settled: Callable[[Product, str], None] = lambda product, by: None  # chosen by whom, in the thread of products
        self.set_cameras: Callable[[str], None] = lambda name: None
        self.on_standing: list[Callable[[ProductStatus], None]] = []
        self._choice = choice
        self._changed = changed or threading.Condition()
        self._clock = clock
        self._lock = threading.Lock()
        self._reporting = threading.RLock()
        self._pending: Change | None = None
        self._swap: BundleSwap | None = None
        self._entering: Product | None = None  # chosen by a part id: must not be parked
        self._adopted: Product | None = None  # what the loop has the judge of
        self._parked: SimpleQueue[contextlib.ExitStack] = SimpleQueue()  # engines that the loop's thread must close
        self._reason: str | None = "none is chosen"
        self._fault = False
        self._since = float("-inf")  # when the active product was acknowledged
        self._number = 0
        self.by_part = any(table.match is not None for table in self._tables().values())
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._closed = threading.Event()
        SupervisedThread("product", self._run, threads, essential=True).start()

    def start(self, first: str | None) -> Product:
        """Open and prove all products; begin with the one that was chosen last, else with none; with ``first`` where
        none was ever chosen.

        Returns a product whose engines are open: the one to begin with, or any. BadInput where none can be opened.
        """
        begin = None if self.by_part else self._choice.begins_with(first)
        for name in sorted(self.products, key=lambda one: one == begin):  # the one to begin with was used last
            self._open(self.products[name])
            self._park_others(self.products[name])
        opened = [product for product in self.products.values() if product.loaded]
        if not opened:
            raise BadInput("; ".join(f"product {name}: {reason}" for name, reason in self.faults.items()))
        if self.by_part:
            self._choice.write(None)
            self._reason = "no part has named one yet"
        elif begin is not None:
            self._begin(begin)
        used = memory_of(self.products)
        budget = "no budget" if self.budget_mb is None else f"a budget of {self.budget_mb:g} MB"
        _log.info("products: %d of %d are loaded, %.0f MB (%s)", len(opened), len(self.rows()), used, budget)
        self._adopted = self.active or opened[-1]
        return self._adopted

    def _begin(self, name: str) -> None:
        product = self.products.get(name)
        if product is not None and product.loaded:
            self.active, self._reason = product, None
            if not self._choice.made:
                self._choice.write(name)
            return
        known = name in self.products or name in self.faults
        reason = self.faults.get(name, "it cannot be opened") if known else "edge-ad.toml does not name it any more"
        self._reason, self._fault = f"{name}: {reason}", True

    def start_single(self, product: Product) -> Product:
        """Begin with the one product, of no name, of a station without products; its engines are opened and proven."""
        product.open()
        self.active = self._adopted = product
        self._reason = None
        return product

    def begin(self) -> None:
        """Tell all that listen how products stand, for the first time."""
        self._answer(0)

    def select(self, name: str, by: str) -> str:
        """Ask for a product; return a sentence. BadInput, and no change, for one that is not known."""
        if self.by_part:
            raise BadInput("the part id chooses the product here (match in edge-ad.toml): nobody else can")
        if name not in self.products and name not in self.faults:
            raise BadInput(f"there is no product {storable(name, 80)!r}; choose one of {', '.join(self._names())}")
        if name not in self.products:
            self._ask(Change(None, f"{name}: {self.faults[name]}", by, self._clock()))
            raise BadInput(f"product {name} cannot be judged: {self.faults[name]}; everything is rejected until another is chosen")
        self._ask(Change(self.products[name], None, by, self._clock()))
        return f"product {name} is asked for"

    def ask(self, name: str, by: str) -> None:
        """Ask for a product without somebody who reads an answer; one that is not known is a fault that names it."""
        if self.by_part or name in self.products or name in self.faults:
            try:
                self.select(name, by)
            except BadInput as error:
                _log.error("%s", error)
            return
        known = ", ".join(self._names())
        reason = f"{by} asks for {storable(name, 80)!r}, which no product is called; there are {known}"
        self._ask(Change(None, reason, by, self._clock()))

    def handle(self, request: Request) -> str:
        """Take a request of kind ``product``: the name of what is to be judged."""
        return self.select(request.value("name"), f"{request.by} ({request.origin})" if request.by else request.origin)

    def answer_state(self, request: Request) -> str:
        """Answer a request of kind ``products``: how they stand, as JSON."""
        return json.dumps(self.state())

    def listen(self, uri: str, faults: ThreadFaults) -> MqttCommands:
        """Let a topic of MQTT choose products, and tell how they stand; the caller closes what is returned."""
        ended = self.message(ProductStatus("none", None, 0, f"{PREFIX}the run has ended", 0))
        commands = MqttCommands(parse_broker(uri, "--commands", topic=""), self.hear, faults, ended=ended)
        self.on_standing.append(lambda standing: commands.publish_state(self.message(standing)))
        return commands

    def hear(self, payload: bytes) -> None:
        """Take a message: the name of a product, or JSON with it as ``product``."""
        text = payload[:MAX_MESSAGE].decode("utf-8", "replace").strip()
        if not text:  # how a retained message is cleared
            _log.info("MQTT: an empty message on the topic of commands asks for nothing")
            return
        with contextlib.suppress(ValueError):
            record = json.loads(text)
            text = str(record["product"]) if isinstance(record, dict) and "product" in record else text
        self.ask(text, "MQTT")

    def message(self, standing: ProductStatus) -> str:
        """Return how products stand as JSON, for a topic."""
        product = self.products.get(standing.product) if standing.state == "active" and standing.product else None
        bundle = None if product is None else product.bundle.sha256
        return json.dumps({"state": standing.state, "product": standing.product, "bundle": bundle, "reason": standing.reason})

    def select_code(self, code: int, number: int, by: str = "the PLC") -> None:
        """Ask for the product of a code; one that no product has is a fault that names it. ``number``: of the request."""
        pending = self._pending
        if number and number <= max(self._number, pending.number if pending is not None else 0):
            return  # told again
        names = [name for name, table in self._tables().items() if table.code == code]
        if self.by_part:
            _log.error("%s asks for product code %d: the part id chooses the product here (match in edge-ad.toml)", by, code)
            self._answer(number)
        elif names:
            product, fault = self.products.get(names[0]), self.faults.get(names[0])
            self._ask(Change(product, None if product else f"{names[0]}: {fault}", by, self._clock(), number))
        else:
            known = ", ".join(f"{table.code} ({name})" for name, table in self._tables().items() if table.code)
            reason = f"{by} asks for code {code}, which no product has; codes are {known or 'not set'}"
            self._ask(Change(None, reason, by, self._clock(), number))

    @property
    def reporting(self) -> AbstractContextManager[object]:
        """What the loop holds while it brings out a verdict: a request waits for that moment, so that no verdict follows it."""
        return self._reporting

    @property
    def standing(self) -> ProductStatus:
        """How products stand now."""
        with self._lock:
            return self._standing()

    def reason(self) -> str | None:
        """Return why nothing may be judged now, None where a product is active."""
        pending, swap = self._pending, self._swap
        if pending is not None:
            return f"{CHANGING} {pending.product.name if pending.product else 'none'}"
        if swap is not None and swap.old is self.active:
            return REPLACING
        return None if self._reason is None else f"{PREFIX}{self._reason}"

    def withheld(self, candidate: Judgeable) -> str | None:
        """Return why a frame may not be judged: no product is in force, or it shows the time before its change."""
        reason = self.reason()
        if reason is not None or self.by_part:
            return reason
        if candidate.seen_at < self._since:
            return f"{BEFORE} {self.active.name if self.active else 'none'} was chosen"
        return None

    def choose(self, part: str | None) -> str | None:
        """Have the product judged that a part id names; return why that cannot be. In the thread of the loop."""
        if not self.by_part or part is None:
            return None
        if not part:
            return f"{PREFIX}a part was called for without an id, which chooses the product"
        # Those that cannot be judged match too: their parts are nobody else's.
        names = [name for name, table in self._tables().items() if table.match is not None and re.search(table.match, part)]
        if len(names) > 1:
            return f"{PREFIX}part {storable(part, 80)!r} matches {' and '.join(names)}: narrow their match"
        if not names:
            return f"{PREFIX}part {storable(part, 80)!r} matches no product; there are {', '.join(self._names())}"
        product = self.products.get(names[0])
        if product is None:
            return f"{PREFIX}{names[0]}: {self.faults[names[0]]}"
        with self._lock:
            if product is self.active and self.reason() is None:
                return None
            ready = product.loaded and self._pending is None
            self._entering = product if ready else None
        if ready:
            self._enter(Change(product, None, f"part {part}", self._clock()))
        elif names[0] in self.faults:
            return f"{PREFIX}{names[0]}: {self.faults[names[0]]}"
        elif self._pending is None or self._pending.product is not product:
            self._ask(Change(product, None, f"part {part}", self._clock()))
        return self.reason()

    def tick(self) -> None:
        """Let a change come into force that is prepared."""
        while not self._parked.empty():
            self._parked.get().close()
        swap = self._swap
        if swap is not None and swap.prepared:
            self._exchange(swap)
        change = self._pending
        if change is not None and change.prepared:
            self._enter(change)

    def swap(self, swap: BundleSwap) -> None:
        """Put another bundle in the place of a product's; returns when it is done, its ``error`` set where the old one goes on.

        From this call on, until the new one is acknowledged on the disk and in force, nothing of the product is judged. A change
        of product that is asked for meanwhile follows. Not in the thread of the loop; one at a time.
        """
        with self._reporting, self._lock:
            self._swap = swap
            self._notify()
        self._work.put(lambda: swap.acknowledge(self._changed, self._closed))
        while not swap.done.wait(POLL_S):
            if self._closed.is_set():
                swap.give_up()
                self._swap = None
                return

    def _exchange(self, swap: BundleSwap) -> None:
        """Bring a bundle into force between two frames, in the thread of the loop; the old one where that fails."""
        old, fresh = swap.old, swap.fresh
        if swap.bring_in(self.on_change if old is not None and old is self._adopted else None):
            with self._lock:
                self.products[swap.name] = fresh
                self.faults.pop(swap.name, None)
                fresh.used_at = self._clock()
                if old is not None:
                    self.active, self._adopted, self._entering = (
                        fresh if one is old else one for one in (self.active, self._adopted, self._entering)
                    )
                    if self._pending is not None and self._pending.product is old:
                        self._pending.product = fresh
        with self._lock:
            self._swap = None
            self._notify()
        swap.done.set()
        self._work.put(lambda: self._park_others(self.active or fresh))

    def rows(self) -> list[dict[str, Any]]:
        """Return all products as plain values, in the order of edge-ad.toml."""
        pending = self._pending
        rows = []
        for name in self._names():
            product, fault = self.products.get(name), self.faults.get(name)
            state = "fault" if fault else "ready" if product is not None and product.loaded else "parked"
            if product is not None and product is self.active and self.reason() is None:
                state = "active"
            elif pending is not None and pending.product is product and product is not None:
                state = "changing"
            rows.append(
                {
                    "name": name,
                    "state": state,
                    "code": self._tables()[name].code,
                    "bundle": None if product is None else product.bundle.sha256,
                    "file": None if product is None else product.bundle.path.name,
                    "memory_mb": 0.0 if product is None or not product.loaded else round(product.memory_mb, 1),
                    "reason": fault,
                }
            )
        return rows

    def state(self) -> dict[str, Any]:
        """Return how products stand as plain values: for the dashboard, the metrics and `edge-ad product list`."""
        return {
            **asdict(self.standing),
            "products": self.rows(),
            "memory_mb": round(memory_of(self.products), 1),
            "budget_mb": self.budget_mb,
            "changes": self.changes,
            "last_change_s": self.last_change_s,
        }

    def close(self) -> None:
        """End the thread and close all engines."""
        self._closed.set()
        self._work.put(None)
        for product in self.products.values():
            product.close()

    def _tables(self) -> Mapping[str, ProductTable]:
        return next(iter(self.products.values())).settings.product

    def _names(self) -> list[str]:
        return list(self._tables())

    def _ask(self, change: Change) -> None:
        with self._reporting, self._lock:
            if change.product is not None:  # its bundle may have been replaced since it was looked up
                change.product = self.products.get(str(change.product.name), change.product)
            if change.product is not None and change.product is self.active and self.reason() is None:
                self._number = max(self._number, change.number)
                return self._notify()
            if self._pending is not None and change.product is not None and self._pending.product is change.product:
                self._pending.number = max(change.number, self._pending.number)
                return self._notify()  # under way: to begin anew with each repetition would never end
            if self._pending is not None:
                change.number = max(change.number, self._pending.number)  # the newest answers all
            self._pending = change
            self._notify()
        self._work.put(lambda: self._prepare(change))
        return None

    def _answer(self, number: int) -> None:
        with self._lock:
            self._number = max(self._number, number)
            self._notify()

    def _standing(self) -> ProductStatus:
        pending, active = self._pending, self.active
        if pending is not None:
            name = pending.product.name if pending.product is not None else None
            return ProductStatus("changing", name, 0, self.reason(), self._number)
        if self._swap is not None and active is not None and self._swap.old is active:
            return ProductStatus("changing", active.name, 0, self.reason(), self._number)
        if self._reason is not None or active is None:
            return ProductStatus("fault" if self._fault else "none", None, 0, self.reason(), self._number)
        return ProductStatus("active", active.name, active.code or 0, None, self._number)

    def _notify(self) -> None:
        """Tell how products stand, in order: with the lock held."""
        standing = self._standing()
        for listener in self.on_standing:
            listener(standing)

    def _prepare(self, change: Change) -> None:
        """Do what takes time, in the thread of products: nothing may be judged meanwhile."""
        if self._pending is not change:  # a newer one is on its way
            return
        try:
            self._choice.write(None)
            if change.product is not None and not change.product.in_loop:
                self._load(change)
            if change.product is not None:
                self.set_cameras(str(change.product.name))
        except Exception as error:  # whatever it is, the request is answered
            change.product, change.fault = None, why(error)
        change.prepared = True
        with self._changed:
            self._changed.notify_all()

    def _load(self, change: Change) -> None:
        """Open what is parked; where that fails the change is one to a fault."""
        product = change.product
        if product is None or product.loaded:
            return
        began = self._clock()
        self._open(product)
        change.loading_s = self._clock() - began
        if not product.loaded:
            change.product, change.fault = None, f"{product.name}: {self.faults[str(product.name)]}"

    def _enter(self, change: Change) -> None:
        """Bring a change into force, in the thread of the loop."""
        self._load(change)  # a GPU's engines belong to this thread
        product = change.product
        if product is not None and product is not self._adopted:
            self.on_change(product)
            self._adopted = product
        with self._lock:
            self._entering = None
            self._number = max(self._number, change.number)
            if self._pending not in (change, None):
                return  # another was asked for meanwhile: this one was never acknowledged
            if product is not None:
                self.active = product
            self._reason, self._fault = change.fault, change.fault is not None
            self._since = self._clock()
            self._pending = None
            self._notify()
        self._report(change)
        if product is not None:
            product.used_at = self._clock()
            self._work.put(lambda: self._settle(product, change.by))

    def _report(self, change: Change) -> None:
        took = self._since - change.asked_at
        if change.product is None:
            _log.error("%s%s", PREFIX, change.fault)
            return
        self.changes += 1
        self.last_change_s = took
        if self.by_part and not change.loading_s:
            return  # as often as parts come
        parked = f", {change.loading_s:.1f} s of them to load what was parked" if change.loading_s else ""
        _log.info("product %s is judged now, chosen by %s; the change took %.3f s%s", change.product.name, change.by, took, parked)

    def _settle(self, product: Product, by: str) -> None:
        """Keep the choice and park what memory does not suffice for, in the thread of products."""
        active = self.active  # the same product may be judged by another bundle meanwhile
        if not self.by_part and self._pending is None and active is not None and active.name == product.name:
            try:
                self._choice.write(product.name)
            except EdgeAdError as error:
                _log.error("a restart will come up without a product: %s", error)
            self.on_settled(active, by)
        self._park_others(product)

    def _open(self, product: Product) -> None:
        try:
            product.open()
            product.used_at = self._clock()
            self.faults.pop(str(product.name), None)
        except Exception as error:
            self.faults[str(product.name)] = why(error)
            _log.error("product %s cannot be judged: %s; others go on", product.name, why(error))

    def _park_others(self, product: Product) -> None:
        """Park those used longest ago until the rest fits into the budget; never ``product`` nor what may be judged."""
        if self.budget_mb is None:
            return
        for other in sorted(self.products.values(), key=lambda one: one.used_at):
            if memory_of(self.products) <= self.budget_mb:
                return
            with self._lock:
                wanted = None if self._pending is None else self._pending.product
                stack = None if other in (product, self.active, self._adopted, self._entering, wanted) else other.release()
            if stack is not None:
                if other.in_loop:
                    self._parked.put(stack)
                else:
                    stack.close()
                _log.info("product %s is parked: the memory budget is %g MB", other.name, self.budget_mb)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
