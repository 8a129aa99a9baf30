"""The metrics of a run for Prometheus; names and labels in docs/dashboard.md, every label from a bounded set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_ad.events import VERDICTS
from edge_ad.web.dashboard_feed import BOUNDS_S
from edge_ad.web.dashboard_state import DashboardState

PHASES = ("quiet", "pending", "alarm", "acknowledged", "latched", "held")
# Name, what it counts, and the counter it is.
COUNTERS = (
    ("captured_frames", "Frames that reached this machine.", "captured"),
    (
        "dropped_frames",
        "Frames that were replaced by a newer one, repeated, or of a part that had better ones.",
        "dropped",
    ),
    ("lost_frames", "Frames that never arrived.", "lost"),
    ("outages", "NONE verdicts without a frame.", "outages"),
    ("parts", "Parts with a verdict.", "parts"),
    ("reconnects", "Times that a camera was opened again.", "reconnects"),
    ("stalls", "Times that a camera gave no frame in its time.", "stalls"),
    ("unlocated_parts", "Parts that were looked for and not located.", "unlocated"),
    ("outside_poses", "Parts whose pose leaves those of the normal images.", "outside"),
)
FLEET_PHASES = (
    "idle", "held", "downloading", "building", "watching", "switching", "active", "waiting", "failed", "refused"
)  # fmt: skip
FRAMES = ("judged", "faulted", "idle")


def metrics_text(dashboard: DashboardState) -> bytes:
    """Return the metrics in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Run(dashboard))
    return generate_latest(registry)


class _Run(Collector):
    """Turns the newest state of a run into metrics."""

    def __init__(self, dashboard: DashboardState) -> None:
        self._dashboard = dashboard

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        life, state = self._dashboard.life(), self._dashboard.state
        yield _gauge("up", "1 while cycles complete, else 0.", float(life.healthy and life.ready and state is not None))
        yield _gauge("pages", "Open pages of the dashboard.", float(self._dashboard.pages))
        if state is None:
            return
        about = self._dashboard.hello.get("about", {})
        labels = {name: str(about.get(name) or "") for name in ("version", "backend", "precision", "bundle")}
        yield _labelled("info", "What runs.", tuple(labels), [(tuple(labels.values()), 1.0)])
        yield _gauge("uptime_seconds", "Seconds since the run began.", state["uptime_s"])
        age = state["cycle_age_s"] + self._dashboard.silent_s
        yield _gauge("last_cycle_age_seconds", "Seconds since the last completed cycle.", age)
        yield _gauge("resident_memory_bytes", "Memory that the run holds.", state["memory_mb"] * 2**20)
        yield from _cameras(state["cameras"], self._dashboard.silent_s)
        yield _stages(state["stages"])
        yield from _threads(state["faults"])
        yield from _outputs(state["outputs"])
        yield from _rest(state)


def _cameras(cameras: list[dict[str, Any]], silent_s: float) -> Iterable[Metric]:
    numbers = [(camera["name"], camera["counters"]) for camera in cameras]
    frames = CounterMetricFamily(
        "edge_ad_frames", "Frames that were looked at, by result.", labels=("camera", "result")
    )
    verdicts = CounterMetricFamily("edge_ad_verdicts", "Verdicts.", labels=("camera", "verdict"))
    for name, counted in numbers:
        for result in FRAMES:
            frames.add_metric((name, result), counted[result])
        for verdict in VERDICTS:
            verdicts.add_metric((name, verdict), counted[f"verdict_{verdict}"])
    yield frames
    yield verdicts
    for metric, help_text, key in COUNTERS:
        family = CounterMetricFamily(f"edge_ad_{metric}", help_text, labels=("camera",))
        for name, counted in numbers:
            family.add_metric((name,), counted[key])
        yield family
    ages = [((camera["name"],), camera["age_s"] + silent_s) for camera in cameras if camera["age_s"] is not None]
    yield _labelled("last_verdict_age_seconds", "Seconds since the last verdict.", ("camera",), ages)
    rates = [((camera["name"],), camera["fps"]) for camera in cameras if camera["fps"] is not None]
    yield _labelled("frames_per_second", "Frames a second that reached this machine.", ("camera",), rates)
    lags = [((camera["name"],), camera["lag_s"]) for camera in cameras if camera.get("lag_s") is not None]
    yield _labelled("camera_lag_seconds", "How late images arrive, by the camera's own clock.", ("camera",), lags)
    phases = [((camera["name"], phase), float(camera["alarm"] == phase)) for camera in cameras for phase in PHASES]
    yield _labelled("alarm_phase", "1 for the phase of the alarm.", ("camera", "phase"), phases)


def _threads(faults: dict[str, Any]) -> Iterable[Metric]:
    family = CounterMetricFamily(
        "edge_ad_thread_faults", "Unforeseen exceptions in a thread of the run.", labels=("thread",)
    )
    for name, count in faults["counts"].items():
        family.add_metric((name,), count)
    yield family
    yield _gauge("thread_down", "1 while a thread of the run is down.", float(faults["down"] is not None))


def _outputs(outputs: list[dict[str, Any]]) -> Iterable[Metric]:
    working = [((output["name"],), float(output["up"])) for output in outputs]
    yield _labelled("output_up", "1 while an output works.", ("output",), working)
    faults = CounterMetricFamily("edge_ad_output_faults", "Times that an output began to fail.", labels=("output",))
    for output in outputs:
        faults.add_metric((output["name"],), output["faults"])
    yield faults


def _stages(stages: dict[str, Any]) -> Metric:
    family = HistogramMetricFamily(
        "edge_ad_latency_seconds", "Time from the capture to the verdict (total), and of each stage.", labels=("stage",)
    )
    for name, histogram in stages.items():
        below, buckets = 0, []
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), histogram["counts"], strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric((name,), buckets, sum_value=histogram["sum"])
    return family


def _rest(state: dict[str, Any]) -> Iterable[Metric]:
    limits = [((name,), state["thresholds"][name]) for name in ("warn", "ng")]
    yield _labelled("threshold", "The thresholds on the score.", ("kind",), limits)
    yield _gauge("alarm_lit", "1 while the lamp is on.", float(state["lamp"]["lit"]))
    yield _gauge("alarm_waiting", "1 while an alarm waits for an acknowledge.", float(state["lamp"]["waiting"]))
    products = state["products"]
    if products is not None:
        yield from _products(products)
    if state["fleet"] is not None:
        yield from _fleet(state["fleet"])
    yield _gauge("paused", "1 while somebody has paused the line.", float(state["pause"] is not None))
    challenge = state["challenge"]
    if challenge is not None:
        yield _gauge("challenge_due", "1 while a challenge is due.", float(challenge["due"] is not None))
        yield _gauge("challenge_locked", "1 while nothing passes because of a challenge.", float(challenge["locked"] is not None))
    drift = state["drift"]
    if drift is not None:
        yield _gauge("drifted", "1 when parts are no longer like the normal images.", float(bool(drift["drifted"])))
        shifts = [((name,), stream["shift"]) for name, stream in drift["streams"].items() if stream["shift"] is not None]
        yield _labelled("drift_shift", "Distance from the normal images in standard errors.", ("stream",), shifts)
    store = state["store"]
    if store is not None:
        yield _gauge("store_fault", "1 while events cannot be stored.", float(store["fault"] is not None))
        yield _counter("store_events", "Events on the disk.", store["committed"])
        yield _counter("store_dropped_events", "Events that could not be stored.", store["dropped"])


def _products(products: dict[str, Any]) -> Iterable[Metric]:
    labels = ("product", "bundle", "state")
    rows = [((row["name"], row["bundle"] or "", row["state"]), float(row["state"] == "active")) for row in products["products"]]
    yield _labelled("product", "1 for the product that is judged.", labels, rows)
    yield _counter("product_changes", "Changes from one product to another.", products["changes"])
    yield _gauge("product_memory_bytes", "Memory of the engines of all products.", products["memory_mb"] * 2**20)
    if products["last_change_s"] is not None:
        yield _gauge("product_change_seconds", "Duration of the last change.", products["last_change_s"])


def _fleet(fleet: dict[str, Any]) -> Iterable[Metric]:
    phases = [((phase,), float(fleet["phase"] == phase)) for phase in FLEET_PHASES]
    yield _labelled("fleet_phase", "1 for the phase of what the fleet asks for.", ("phase",), phases)
    yield _gauge("fleet_sequence", "Sequence of the desired state that was accepted last.", float(fleet["sequence"]))
    yield _gauge("fleet_connected", "0 while broker or folder of the fleet is away.", float(not fleet["channel_fault"]))
    yield _gauge("fleet_refused", "1 while the desired state that was heard last is refused.", float(bool(fleet["refusal"])))
    releases = [((product,), float(one["number"])) for product, one in fleet["active"].items()]
    yield _labelled("fleet_release", "Number of the release in force.", ("product",), releases)
    shadow = fleet["shadow"] or {"parts": 0, "changes": 0}
    yield _gauge("fleet_compared_parts", "Live parts that the wanted release has judged, too.", float(shadow["parts"]))
    yield _gauge("fleet_changed_verdicts", "How many of these got another verdict.", float(shadow["changes"]))


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"edge_ad_{name}", help_text, value=value)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"edge_ad_{name}", help_text, value=value)


def _labelled(name: str, help_text: str, labels: tuple[str, ...], values: Sequence[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(f"edge_ad_{name}", help_text, labels=labels)
    for result, value in values:
        family.add_metric(result, value)
    return family
