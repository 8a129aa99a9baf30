"""Products that change at random moments under load: is anything judged by the wrong one, does anything pass, is memory flat?

`python tools/soak/products.py [--changes 200] [--seed 0] [--json FILE]`. Three products, a camera at 50 frames a second, a PLC that
reads and writes over Modbus, an OPC UA client, a broker with the topic of commands, and requests by name; who asks, for what and
when is drawn. Every
verdict must be of the product that stands and carry the hash of its bundle, between request and acknowledge there must be NONE
alone, and the PLC must not see `pass` from its own request until its acknowledge. Ends with 1 when one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from edge_ad.events import Event
from edge_ad.outputs.signals import PRODUCT_ADDRESS
from edge_ad.utils.board import resident_mb
from tests.fixtures.loopback import free_port, until
from tests.fixtures.mosquitto import Mosquitto
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.inspection.test_products import NAMES, Line, check_order, running, settings
from tests.outputs.peers import OpcUaChooser, ReadingPlc

PATIENCE_S = 60.0


class Askers:
    """Who may ask for a product; each waits until the change is in force."""

    def __init__(self, line: Line, plc: ReadingPlc, broker: Mosquitto, chooser: OpcUaChooser) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self._line, self._plc, self._chooser = line, plc, chooser
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self.passes = 0  # seen by the PLC between its request and the acknowledge

    def close(self) -> None:
        """Hang up."""
        self._client.loop_stop()
        self._plc.close()
        self._chooser.close()

    def name(self, name: str) -> None:
        """Ask by name, as a command and the dashboard do."""
        self._line.changeover.select(name, "the soak")
        self._line.log.append(name)
        self._stands(name)

    def message(self, name: str) -> None:
        """Ask by a message."""
        self._client.publish("line/7", name, qos=1)
        self._stands(name)

    def node(self, name: str) -> None:
        """Ask by the node of the OPC UA server, and wait until another shows it."""
        self._chooser.ask(name)
        if not until(lambda: self._chooser.read("Active") == name, PATIENCE_S):
            raise SystemExit(f"the OPC UA client was not answered: {self._chooser.read('State')}")

    def register(self, name: str) -> None:
        """Ask by the register of the PLC, and look at `pass` until the acknowledge."""
        code = NAMES.index(name) + 1
        self._plc.client.write_register(PRODUCT_ADDRESS, code)
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            seen = self._plc.registers(0, 8)
            if seen[5] == code:
                return
            self.passes += seen[0] & 1
        raise SystemExit(f"the PLC was not answered: {seen}")

    def _stands(self, name: str) -> None:
        if not until(lambda: (self._line.changeover.standing.product, self._line.changeover.reason()) == (name, None), PATIENCE_S):
            raise SystemExit(f"{name} did not come into force: {self._line.changeover.standing}")


def soak(folder: Path, changes: int, seed: int) -> dict[str, Any]:
    """Change so often and return what was seen."""
    for number, name in enumerate(NAMES):
        make_tiny_bundle(folder / f"{name}.edgead", number)
    broker, rng = Mosquitto(folder / "broker"), random.Random(seed)
    port_of_nodes = free_port()
    alarm = ["modbus-server://127.0.0.1:0", f"opcua://127.0.0.1:{port_of_nodes}?products=choose"]
    run = {"store": folder / "line.sqlite", "alarm": alarm, "commands": f"mqtt://{broker.address}/line/7"}
    tables = {name: {"warn_above": 1e6, "ng_above": 1e6} for name in NAMES}
    memory = []
    with running(folder, settings(folder, tables, product=NAMES[0], **run)) as line:
        assert line.inspector.wiring.guard is not None
        (port,) = line.inspector.wiring.guard.ports.values()
        askers = Askers(line, ReadingPlc(port), broker, OpcUaChooser(port_of_nodes))
        for number in range(changes):
            others = [name for name in NAMES if name != line.changeover.standing.product]  # a message is answered by a change alone
            rng.choice((askers.name, askers.message, askers.register, askers.node))(rng.choice(others))
            time.sleep(rng.choice((0.0, 0.02, 0.2)))
            if number % 10 == 9:
                memory.append(round(resident_mb(), 1))
        state = line.changeover.state()
        askers.close()
    broker.stop()
    try:
        check_order(line.log, line.hashes)
    except AssertionError as error:
        raise SystemExit(f"a verdict of the wrong product: {error}") from error
    events = [one for one in line.log if isinstance(one, Event)]
    judged = [one for one in events if one.verdict != "NONE"]
    half = memory[len(memory) // 2 :]
    return {
        "asked": changes,
        "changes": state["changes"],
        "events": len(events),
        "judged": len(judged),
        "passes_before_acknowledge": askers.passes,
        "memory_mb": memory,
        "growth_mb_second_half": round(half[-1] - half[0], 1) if half else None,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), options.changes, options.seed)
    print(json.dumps(found))
    if options.json is not None:
        options.json.write_text(json.dumps(found) + "\n")
    raise SystemExit(int(found["passes_before_acknowledge"] > 0))


if __name__ == "__main__":
    main()
