"""The fleet's agent of a run: made of [fleet] of edge-ad.toml, it asks the run as a page or a command would."""

from __future__ import annotations

import json
import socket
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_ad.config import Config
from edge_ad.errors import BadInput, DeviceFault, require
from edge_ad.fleet.agent import AgentOptions, FleetAgent, InForce
from edge_ad.fleet.desired_state import INSTALL, STATE, check_name
from edge_ad.fleet.signing import parse_trusted
from edge_ad.fleet.state_channel import broker_of, is_broker, open_station, where_states_are
from edge_ad.fleet.store_access import open_store
from edge_ad.fleet.trial import LiveParts
from edge_ad.inspection.bundle_swap import REPLACE, ROLL_BACK
from edge_ad.inspection.bundle_swap import STATE as BUNDLES
from edge_ad.inspection.requests import Request
from edge_ad.inspection.settings import store_of
from edge_ad.store.actions import Action, ActionLog, action_log
from edge_ad.store.next_run import BundlePointer, pointer_path

if TYPE_CHECKING:
    from edge_ad.inspection.inspector import Inspector

SWITCH_S = 600.0  # to open engines and to wait for a moment between two parts
POLL_S = 0.02


class InspectedStation:
    """What the agent needs of a run, by the requests that the run takes."""

    def __init__(self, inspector: Inspector, log: ActionLog) -> None:
        self.parts = LiveParts()
        self._inspector = inspector
        self._log = log

    def in_force(self, product: str) -> InForce:
        """Return what a product is judged by."""
        changeover = self._inspector.changeover
        products: dict[str, Any] = {"": self._inspector.product} if changeover is None else changeover.products
        if product not in products:
            known = ", ".join(products) if changeover is not None else "none by name"
            raise BadInput(f"the release is for product {product!r:.80}, and this station has {known}: publish it with --product")
        judged = products[product]
        engines = judged.pipeline if judged.opened else None
        return InForce(
            bundle=judged.bundle.path,
            sha256=judged.bundle.sha256,
            settings=judged.settings,
            backend="onnxruntime" if engines is None else engines.backend.name,
            precision="fp32" if engines is None else engines.precision,
        )

    def hashes_needed(self) -> set[str]:
        """Return the hashes of the bundles that took another's place, and of those before them."""
        entries = BundlePointer(pointer_path(store_of(self._inspector.settings.run))).entries().values()
        return {one.sha256 for entry in entries for one in (entry.current, *entry.earlier[-1:])}

    def replace(self, product: str, bundle: Path, sha256: str, *, by: str, reason: str) -> float:
        """Have the run judge by another bundle between two parts."""
        values = {"product": product, "bundle": str(bundle.absolute()), "sha256": sha256, "reason": reason}
        return self._exchange(Request(REPLACE, by, "fleet", values), sha256)

    def roll_back(self, product: str, *, by: str, reason: str) -> float:
        """Have the run judge by the bundle before."""
        return self._exchange(Request(ROLL_BACK, by, "fleet", {"product": product, "reason": reason}))

    def keep(self, action: Action) -> None:
        """Write into the audit trail."""
        self._log.keep(action)

    def _exchange(self, request: Request, sha256: str | None = None) -> float:
        requests = self._inspector.wiring.requests
        requests.submit(request)
        number, ends = self._state()["number"], time.monotonic() + SWITCH_S
        while time.monotonic() < ends:
            state = self._state()
            if state["number"] != number:
                raise DeviceFault("another bundle was asked for meanwhile: see `edge-ad events actions`")
            if state["state"] == "failed":
                raise DeviceFault(str(state["error"]))
            if state["state"] == "done":
                if sha256 is not None and state["sha256"] != sha256:
                    raise DeviceFault("the run judges by another bundle than was asked for: see `edge-ad events actions`")
                return float(state.get("swap_s") or 0.0)
            time.sleep(POLL_S)
        raise DeviceFault(f"the run did not switch within {SWITCH_S:g} s: look at its log")

    def _state(self) -> dict[str, Any]:
        return dict(json.loads(self._inspector.wiring.requests.submit(Request(BUNDLES, "", "fleet"))))


def state_folder(settings: Config) -> Path:
    """Return where a station keeps bundles and state of its fleet, ``line.fleet/`` beside ``line.sqlite``; BadInput without a
    record.
    """
    store = store_of(settings.run)
    if store is None:
        raise BadInput("[fleet] needs a record, in which it stands who changed what: give --store FILE, or outputs")
    return settings.fleet.folder or store.with_suffix(".fleet")


def agent_options(settings: Config) -> AgentOptions:
    """Return what [fleet] says of a station; BadInput for what cannot be used."""
    table = settings.fleet
    if settings.part.views:
        raise BadInput("[fleet] brings one bundle, and this station judges several views ([part] views): leave trusted_keys out")
    require("cryptography", extra="fleet", needed_by="[fleet]")
    return AgentOptions(
        station=check_name("station of [fleet]", table.station or socket.gethostname().split(".")[0]),
        group=check_name("group of [fleet]", table.group),
        trusted=parse_trusted(table.trusted_keys),
        folder=state_folder(settings),
        store=None if table.bundles is None else open_store(table.bundles),
        images=table.images,
        share=table.share,
    )


class RunAgent:
    """The agent of one run, from ``begin``, when the run takes requests, to ``close``."""

    def __init__(self, inspector: Inspector) -> None:
        settings = inspector.settings
        options = agent_options(settings)
        store = store_of(settings.run)
        assert store is not None
        self._where = where_states_are(settings.fleet)
        if self._where is not None and is_broker(self._where):
            require("paho.mqtt.client", extra="fleet", needed_by="[fleet]")
            broker_of(self._where).trust()
        self._inspector = inspector
        self._agent = FleetAgent(options, InspectedStation(inspector, action_log(store)), inspector.faults)
        self.observer = self._agent.observer

    def begin(self, inspector: Inspector) -> None:
        """Follow the fleet from now on."""
        options, requests = self._agent.options, self._inspector.wiring.requests
        requests.register(INSTALL, self._agent.install)
        requests.register(STATE, self._agent.answer_state, logged=False)
        if self._where is None:
            self._agent.start(None)
            return
        opened = partial(open_station, self._where, options.group, options.station, faults=self._inspector.faults)
        self._agent.start(lambda heard, on_fault: opened(heard=heard, on_fault=on_fault))

    def state(self) -> dict[str, Any]:
        """Return how the station stands in its fleet, as plain values."""
        return self._agent.state()

    def close(self) -> None:
        """Give up what is under way and say goodbye."""
        self._agent.close()
