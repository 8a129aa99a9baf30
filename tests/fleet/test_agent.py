"""One agent: what it follows, what it refuses and why, and what is left after each failure. Trials are real processes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.bundle import Golden, open_bundle, write_bundle
from edge_ad.camera.frames import Frame
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Event
from edge_ad.fleet.agent import MAX_TOLD
from edge_ad.fleet.desired_state import sign_desired, sign_release
from edge_ad.fleet.signing import SigningKey, make_key
from edge_ad.fleet.store_access import open_store
from edge_ad.fleet.trial import LiveParts, Shown, Trial
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.requests import Request
from edge_ad.utils.files import sha256_file
from tests.camera.pictures import write_image
from tests.fixtures.file_server import FileServer
from tests.fixtures.loopback import until
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_contents, tiny_image
from tests.fleet.stations import Bench, LiveLine


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A champion, two releases, and one whose golden images say that its engines are wrong."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {name: make_tiny_bundle(folder / f"{name}.edgead", seed) for seed, name in enumerate(("old", "new", "newer"))}
    contents = tiny_contents(3)
    golden = Golden(contents.golden.images, contents.golden.raw + np.float32(50.0))
    write_bundle(folder / "wrong.edgead", replace(contents, golden=golden))
    return {**made, "wrong": folder / "wrong.edgead"}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return make_key(tmp_path_factory.mktemp("key") / "anna.key")


@pytest.fixture
def bench(tmp_path: Path, key: SigningKey, bundles: dict[str, Path]) -> Iterator[Bench]:
    made = Bench(tmp_path, key, bundles["old"])
    yield made
    made.agent.close()


def test_a_release_is_proven_and_then_in_force_and_goes_back_again(bench: Bench, bundles: dict[str, Path]) -> None:
    release = bench.publish(bundles["new"])
    first = bench.desire(bench.release(1), 1)
    bench.ask(first)
    assert bench.ends("active"), bench.reported
    assert bench.station.hashes[-1] == release.sha256
    assert bench.reported.active[""]["number"] == 1
    assert bench.station.kinds() == ["fleet-accepted", "fleet-active"]
    assert bench.station.log[0].details["key"] == "anna"
    bench.restart()
    bench.ask(first)  # the broker has retained it
    time.sleep(0.1)
    assert len(bench.station.hashes) == 2
    bench.ask(bench.desire(bench.release(1), 2, action="rollback"))
    assert until(lambda: bench.reported.sequence == 2 and bench.reported.phase == "active")
    assert len(bench.station.hashes) == 1
    assert bench.reported.active == {}


def refusals(bench: Bench, bundles: dict[str, Path], tmp_path: Path) -> dict[str, tuple[bytes, str]]:
    """Return desired states that are refused on hearing, and the words of the refusal."""
    release = bench.release(1)
    fine = bench.desire(release, 5)
    stranger = make_key(tmp_path / "stranger.key")
    foreign = replace(release, text=sign_release(release, stranger))
    return {
        "unsigned": (b'{"group": "line-a", "sequence": 9}', "is not signed"),
        "unknown key": (sign_desired(fine, stranger).encode(), "unknown key"),
        "release of an unknown key": (
            sign_desired(replace(fine, release=foreign), bench.key).encode(),
            "the release is signed by the unknown",
        ),
        "changed": (fine.text.replace("anna", "ben_").encode(), "was changed after"),
        "another group": (bench.desire(release, 9, group="line-b").text.encode(), "for group 'line-b', not for line-a"),
        "older": (bench.desire(release, 3).text.encode(), "sequence 3 by anna is older than 4"),
        "second of one sequence": (bench.desire(release, 4, by="ben").text.encode(), "two rollouts at once: sequence 4"),
    }


def test_a_refused_desired_state_changes_nothing_and_gives_the_reason(
    bench: Bench, bundles: dict[str, Path], tmp_path: Path
) -> None:
    bench.publish(bundles["new"])
    bench.ask(bench.desire(bench.release(1), 4))
    assert bench.ends("active")
    for name, (text, words) in refusals(bench, bundles, tmp_path).items():
        for _ in range(2):  # a broker brings it again
            bench.agent.hear(text)
        assert words in bench.reported.refusal, name
        assert words in bench.station.log[-1].reason, name
        assert (bench.reported.phase, bench.reported.sequence) == ("active", 4), name
    assert bench.station.kinds().count("fleet-refused") == 7
    assert len(bench.station.hashes) == 2


@pytest.mark.parametrize(
    ("case", "phase", "words"),
    [
        ("proof fails", "failed", "its engines are refused"),
        ("newer edge-ad", "refused", "needs edge-ad 99.0"),
        ("another product", "refused", "the release is for product 'cap'"),
        ("other bytes", "refused", "other bytes than were signed"),
        ("no bundle", "failed", "is no zip archive|not a zip"),
    ],
)
def test_a_release_that_cannot_be_used_leaves_the_bundle_in_force(
    case: str, phase: str, words: str, bench: Bench, bundles: dict[str, Path]
) -> None:
    release = bench.publish(bundles["wrong" if case == "proof fails" else "new"])
    file, changes = bench.folder / "bundles" / release.object_name, dict[str, Any]()
    if case == "other bytes":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    if case == "no bundle":
        file.write_bytes(b"no bundle at all")
        changes = {"sha256": sha256_file(file), "size": 16}
        file.rename(file.with_name(f"{changes['sha256']}.edgead"))
    if case == "newer edge-ad":
        changes = {"min_version": "99.0"}
    if case == "another product":
        changes = {"product": "cap"}
    bench.ask(bench.desire(bench.signed(bench.release(1), **changes), 1))
    assert bench.ends(phase), bench.reported
    assert re.search(words, bench.reported.reason), bench.reported
    assert bench.reported.reason.endswith("the bundle in force goes on")
    assert bench.station.log[-1].reason == bench.reported.reason
    assert len(bench.station.hashes) == 1
    bench.restart()
    bench.agent._thread.join(0.1)
    assert bench.reported.phase == phase  # it is not tried again by itself


def test_a_state_that_cannot_be_read_stops_the_fleet_and_not_the_line(bench: Bench, bundles: dict[str, Path]) -> None:
    bench.publish(bundles["new"])
    bench.agent.close()
    (bench.options.folder / "state.json").parent.mkdir(exist_ok=True)
    (bench.options.folder / "state.json").write_text("{")
    bench.restart()
    bench.ask(bench.desire(bench.release(1), 1))
    assert "state.json, which says what this station was asked for, cannot be read" in bench.reported.refusal
    assert (bench.options.folder / "state.json").read_text() == "{"
    assert len(bench.station.hashes) == 1


def test_refusals_without_end_do_not_fill_the_audit_trail(bench: Bench, bundles: dict[str, Path]) -> None:
    for number in range(2 * MAX_TOLD):
        bench.agent.hear(f'{{"signature": "", "key": "{number}"}}'.encode())
    assert len(bench.station.log) == MAX_TOLD


def test_a_downgrade_needs_the_engineer_s_word(bench: Bench, bundles: dict[str, Path]) -> None:
    bench.publish(bundles["new"])
    bench.publish(bundles["newer"])
    bench.ask(bench.desire(bench.release(2), 1))
    assert bench.ends("active")
    bench.ask(bench.desire(bench.release(1), 2))
    assert bench.ends("refused")
    assert "older than release 2, which is in force: a downgrade needs --allow-downgrade" in bench.reported.reason
    bench.ask(bench.desire(bench.release(1), 3, allow_downgrade=True))
    assert bench.ends("active")
    assert bench.reported.active[""]["number"] == 1


def test_a_switch_that_the_run_refuses_is_a_failure(bench: Bench, bundles: dict[str, Path]) -> None:
    bench.publish(bundles["new"])
    bench.station.refuses = DeviceFault("the golden image scores 9.000")
    bench.ask(bench.desire(bench.release(1), 1))
    assert bench.ends("failed")
    assert "the golden image scores 9.000; the bundle in force goes on" in bench.reported.reason


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "edge-ad-test", str(folder)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small_and_a_store_that_is_away_are_waited_for(
    disk: Path, tmp_path: Path, key: SigningKey, bundles: dict[str, Path]
) -> None:
    bench = Bench(tmp_path, key, bundles["old"], state=disk)
    try:
        bench.publish(bundles["new"])
        bench.ask(bench.desire(bench.release(1), 1))
        assert until(lambda: "the disk is too small: the bundle and its engines need" in bench.reported.reason)
        (tmp_path / "bundles").rename(tmp_path / "unmounted")
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)  # somebody makes room
        assert until(lambda: "cannot read" in bench.reported.reason)
        assert bench.reported.phase == "waiting"
        (tmp_path / "unmounted").rename(tmp_path / "bundles")
        assert bench.ends("active")
        assert bench.station.kinds() == ["fleet-accepted", "fleet-waiting", "fleet-waiting", "fleet-active"]
    finally:
        bench.agent.close()


def test_a_group_waits_for_its_canaries(bench: Bench, bundles: dict[str, Path]) -> None:
    bench.publish(bundles["new"])
    bench.ask(bench.desire(bench.release(1), 1, stations=("station-9",), canary=True))
    assert bench.ends("held")
    assert "waits until station-9 went through" in bench.reported.reason
    bench.ask(bench.desire(bench.release(1), 2))
    assert bench.ends("active")


@pytest.mark.parametrize(("verdict", "phase"), [("OK", "active"), ("NG", "failed")])
def test_verdicts_on_live_parts_are_compared_before_the_switch(
    verdict: str, phase: str, bench: Bench, bundles: dict[str, Path]
) -> None:
    bench.publish(bundles["new"])
    line = LiveLine(bench.station.parts, lambda number: verdict)
    try:
        bench.ask(bench.desire(bench.release(1), 1, min_parts=5, max_changes=0.2))
        assert bench.ends(phase), bench.reported
    finally:
        line.stop()
    shadow = bench.reported.shadow
    assert shadow is not None
    assert (shadow.parts, shadow.changes) == (5, 0 if phase == "active" else 5)
    assert len(bench.station.hashes) == (2 if phase == "active" else 1)
    if phase == "failed":
        assert "5 of 5 live parts got another verdict" in bench.reported.reason


def test_a_release_takes_no_place_of_a_bundle_that_it_was_not_compared_with(bench: Bench, bundles: dict[str, Path]) -> None:
    bench.publish(bundles["new"])
    bench.ask(bench.desire(bench.release(1), 1, min_parts=5, max_changes=1.0))
    assert bench.ends("watching")
    bench.station.replace("", bundles["newer"], open_bundle(bundles["newer"]).sha256, by="ben", reason="at the station")
    line = LiveLine(bench.station.parts)
    try:
        assert bench.ends("failed"), bench.reported
    finally:
        line.stop()
    assert "another bundle was put in use meanwhile" in bench.reported.reason
    assert bench.station.bundles[-1] == bundles["newer"]


def test_parts_of_another_product_are_not_compared() -> None:
    parts = LiveParts()
    shown: list[Shown | None] = []
    waiting = threading.Thread(target=lambda: shown.append(parts.next(30.0, "blue")))
    waiting.start()
    frame = Frame(tiny_image(1), 1, 0.0, 0.0, "cam", "1")
    while not shown:
        for product, verdict in (("red", "NG"), ("blue", "OK")):
            event = Event("cam", 1, "1", 0.0, verdict, None, {}, None, None, product=product)  # type: ignore[arg-type]
            parts.on_results([InspectionResult(event, frame)], None)  # type: ignore[arg-type]
    waiting.join()
    assert [one and one.verdicts for one in shown] == [("OK",)]


def test_a_newer_desired_state_takes_the_place_of_one_under_way(bench: Bench, bundles: dict[str, Path]) -> None:
    bench.publish(bundles["new"])
    bench.ask(bench.desire(bench.release(1), 1, min_parts=5))  # no part will come
    assert bench.ends("watching")
    bench.ask(bench.desire(bench.release(1), 2, action="rollback"))
    assert bench.ends("active")
    assert len(bench.station.hashes) == 1


@pytest.mark.slow
def test_the_process_of_a_trial_proves_and_judges_and_may_die(tmp_path: Path, key: SigningKey, bundles: dict[str, Path]) -> None:
    bench = Bench(tmp_path, key, bundles["old"], start_trial=Trial)
    line = LiveLine(bench.station.parts)
    try:
        bench.publish(bundles["new"])
        bench.ask(bench.desire(bench.release(1), 1, min_parts=10**6))
        assert until(lambda: bench.reported.shadow is not None and bench.reported.shadow.parts > 0, 120), bench.reported
        assert bench.reported.shadow is not None
        assert set(bench.reported.shadow.table) == {"OK>OK"}
        trial = bench.agent._trial
        assert trial is not None
        assert os.getpriority(os.PRIO_PROCESS, trial._process.pid) == 19
        trial._process.kill()
        assert bench.ends("failed"), bench.reported
        assert "the process that proves the bundle ended (signal 9" in bench.reported.reason
        assert len(bench.station.hashes) == 1
    finally:
        line.stop()
        bench.agent.close()


def test_what_the_end_of_a_run_interrupts_is_done_anew(bench: Bench, bundles: dict[str, Path]) -> None:
    bench.publish(bundles["new"])
    bench.ask(bench.desire(bench.release(1), 1, min_parts=5))
    assert bench.ends("watching")
    bench.restart()
    assert bench.ends("watching")


def test_known_images_are_judged_before_the_switch(
    tmp_path: Path, key: SigningKey, bundles: dict[str, Path]
) -> None:
    for kind, blob in (("good", False), ("bad", True)):
        (tmp_path / "known" / kind).mkdir(parents=True)
        write_image(tmp_path / "known" / kind / "1.png", tiny_image(5000, blob))
    bench = Bench(tmp_path, key, bundles["old"], images=tmp_path / "known")
    try:
        bench.publish(bundles["new"])
        bench.ask(bench.desire(bench.release(1), 1))
        assert bench.ends("active"), bench.reported
        shutil.copy(tmp_path / "known" / "good" / "1.png", tmp_path / "known" / "bad" / "2.png")
        bench.publish(bundles["newer"])
        bench.ask(bench.desire(bench.release(2), 2))
        assert bench.ends("failed")
        assert "the known image bad/2.png is called OK and must be NG" in bench.reported.reason
    finally:
        bench.agent.close()


def test_a_clock_that_is_a_year_wrong_is_reported_and_stops_nothing(bench: Bench, bundles: dict[str, Path]) -> None:
    bench.publish(bundles["new"])
    bench.ask(bench.desire(bench.release(1), 1, time=time.time() + 365 * 86_400))
    assert bench.ends("active")
    assert "the clock of this station is 365 days behind" in bench.reported.note
    assert "fleet-clock" in bench.station.kinds()


def test_the_clock_of_a_store_shows_one_that_is_ahead(tmp_path: Path, key: SigningKey, bundles: dict[str, Path]) -> None:
    server = FileServer(tmp_path / "bundles")
    server.ahead_s = -400 * 86_400.0
    bench = Bench(tmp_path, key, bundles["old"], store=open_store(server.uri))
    try:
        bench.publish(bundles["new"])
        bench.ask(bench.desire(bench.release(1), 1))
        assert bench.ends("active"), bench.reported
        assert "400 days ahead of that of http://127.0.0.1" in bench.reported.note
    finally:
        bench.agent.close()
        server.stop()


def test_a_release_is_installed_from_a_stick(bench: Bench, bundles: dict[str, Path], tmp_path: Path) -> None:
    bench.publish(bundles["new"])
    (tmp_path / "bundles").rename(tmp_path / "stick")
    file = str(tmp_path / "stick" / "releases" / "000001.json")
    answer = bench.agent.install(Request("fleet-install", "anna", "command", {"release": file}))
    assert "is being proven" in answer
    assert bench.ends("active")
    assert bench.reported.active[""]["number"] == 1
    with pytest.raises(BadInput, match="cannot read the release"):
        bench.agent.install(Request("fleet-install", "anna", "command", {"release": str(tmp_path / "none.json")}))


def test_bundles_that_are_not_needed_any_more_are_removed(bench: Bench, bundles: dict[str, Path]) -> None:
    for sequence, name in enumerate(("new", "newer", "old"), start=1):
        bench.publish(bundles[name])
        bench.ask(bench.desire(bench.release(sequence), sequence))
        assert bench.ends("active"), bench.reported
    kept = {path.name[:64] for path in (bench.options.folder / "bundles").iterdir()}
    assert kept == {bench.release(2).sha256, bench.release(3).sha256}


def test_a_bundle_that_somebody_put_in_use_by_hand_is_kept_and_is_no_release(bench: Bench, bundles: dict[str, Path]) -> None:
    for sequence, name in enumerate(("new", "newer"), start=1):
        bench.publish(bundles[name])
        bench.ask(bench.desire(bench.release(sequence), sequence))
        assert bench.ends("active"), bench.reported
    assert bench.reported.active[""]["number"] == 2
    bench.station.roll_back("", by="ben", reason="at the station")
    bench.restart()
    assert bench.reported.active == {}, "release 2 is not judged by"
    bench.publish(bundles["old"])
    bench.ask(bench.desire(bench.release(3), 3))
    assert until(lambda: bench.reported.sequence == 3 and bench.reported.phase == "active")
    assert (bench.options.folder / "bundles" / f"{bench.release(1).sha256}.edgead").is_file(), "a rollback needs it"
