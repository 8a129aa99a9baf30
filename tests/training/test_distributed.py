"""Several processes train what one process trains, and lose nothing when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edge_ad.bundle import open_bundle
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.models.vector_quantiser import VectorQuantiser
from edge_ad.training.distributed import (
    ALONE,
    ProcessGroup,
    Shard,
    SharedDropout,
    SharedUpdate,
    begin_move,
    join,
    shared,
)
from edge_ad.training.loop import defer_interrupt
from edge_ad.training.run_folder import LOCK
from tests.fixtures.loopback import free_port
from tests.fixtures.trained import Trained

ROOT = Path(__file__).parents[2]

TRAINING = """
import os, signal, sys
from edge_ad.cli.app import main
from edge_ad.utils.supervision import leave
from edge_ad.training import loop
from tests.fixtures.tiny_presets import TINY, known

goods, out, stage, number = sys.argv[1:]
loop.CHECKPOINT_SECONDS = 0.0
step = loop._Runner._step

def watched(self):
    if os.environ["RANK"] == "1" and self.recipe.name == stage and self.done == 1:
        os.kill(os.getpid(), int(number))
    return step(self)

loop._Runner._step = watched
with known(TINY):
    leave(main(["train", goods, "--preset", "tiny", "--out", out, "--json", out + "/facts.json"]))
"""


@given(st.integers(1, 40), st.integers(1, 12))
def test_shards_are_a_batch_without_gaps(total: int, size: int) -> None:
    shards = [Shard(total, rank, size) for rank in range(size)]
    batch = list(range(total))
    assert [row for shard in shards for row in batch[shard.rows] if shard.share] == batch
    assert sum(shard.share for shard in shards) == pytest.approx(1.0)
    assert all(batch[shard.rows] for shard in shards)
    assert max(shard.count(shard.rank) for shard in shards) - min(shard.count(shard.rank) for shard in shards) <= 1


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert join() is ALONE
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert join() is ALONE
    rows = torch.arange(6.0)
    assert ALONE.gather(rows, ALONE.shard(6)) is rows
    assert ALONE.values([1.5, 2.5]).tolist() == [[1.5, 2.5]]
    assert ALONE.begin_any(True)()
    assert ALONE.begin_sum(rows)() is rows
    assert ALONE.from_lead(lambda: None) is None


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        BadInput, match="process 3 of this machine has no GPU of its own, there are 2: .*nproc-per-node"
    ):
        join()


def test_only_the_loss_of_a_process_is_reported_as_one() -> None:
    two = ProcessGroup(1, 2)
    message = "process 1 of 2 lost the others while training lavit .*the same command goes on"
    with pytest.raises(DeviceFault, match=message), two.together("lavit"):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:1")
    for group, text in ((two, "mat1 and mat2 shapes cannot be multiplied"), (ALONE, "Connection closed by peer")):
        with pytest.raises(RuntimeError, match=text), group.together("lavit"):
            raise RuntimeError(text)


class Pair(ProcessGroup):
    """Two of whom the other one says no."""

    def begin_any(self, flag: bool) -> Callable[[], bool]:
        return lambda: flag


def test_a_team_stops_at_the_second_signal_too() -> None:
    """torchrun passes Ctrl-C on to processes that had it from the terminal; the step must still come to its end."""

    checks = 0

    def train() -> None:
        nonlocal checks
        with defer_interrupt(Pair(0, 2)) as check:
            check()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
            for _ in range(3):  # the first tells the others, and the answer is known a step later
                checks += 1
                check()

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train()
    assert checks == 2
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("group", [ALONE, Pair(0, 2)], ids=["alone", "group"])
def test_a_signal_in_the_last_step_is_not_lost(group: ProcessGroup) -> None:
    def train() -> None:
        with defer_interrupt(group) as check:
            check()
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train()


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_dropout_of_the_shards_is_that_of_the_batch(last: bool) -> None:
    x = torch.randn(5, 3, 4, 6)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    torch.manual_seed(1)
    expected = nn.Dropout(0.3)(x)
    parts = []
    for rank in range(3):
        layer, shard = nn.Dropout(0.3), Shard(5, rank, 3)
        hooks = SharedDropout(layer, shard)
        torch.manual_seed(1)
        parts.append(layer(x[shard.rows]))
        assert layer.eval()(x) is x
    assert torch.equal(torch.cat(parts), expected)
    with pytest.raises(ValueError, match="a batch of 5 rows"):
        layer.train()(x)
    hooks.remove()
    assert layer(x).shape == x.shape


def test_gradients_pass_through_a_shared_dropout_only_where_it_did_not_drop() -> None:
    layer, shard = nn.Dropout(0.5), Shard(5, 1, 3)
    SharedDropout(layer, shard)
    x = torch.ones(2, 50, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert x.grad is not None
    assert set(x.grad.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(x.grad, out.detach())


class Whole(ProcessGroup):
    """Knows beforehand what other processes see and tell."""

    rows: Tensor
    told: Tensor

    def gather(self, rows: Tensor, shard: Shard) -> Tensor:
        assert torch.equal(self.rows[shard.rows], rows.reshape(shard.count(self.rank), *self.rows.shape[1:]))
        return self.rows

    def begin_sum(self, own: Tensor) -> Callable[[], Tensor]:
        return lambda: self.told


@pytest.mark.parametrize("dead", [False, True], ids=["all alive", "two dead"])
def test_a_codebook_moves_by_what_all_processes_see(dead: bool) -> None:
    def make_layer() -> VectorQuantiser:
        torch.manual_seed(0)
        layer = VectorQuantiser(8, 4, seed_from_data=True)
        if dead:
            layer.seeded.fill_(True)
            layer.counts[2:4] = 0.001
            layer.codebook[2:4] = 1e3  # nothing is near
        return layer

    alone = make_layer()
    torch.manual_seed(0)
    z = torch.randn(6, 5, 4)
    torch.manual_seed(2)
    ids = alone(z).ids
    assert int(alone.revived) == (2 if dead else 0)
    message = torch.zeros(8, 5)
    for row, code in zip(z.flatten(0, 1), ids.flatten(), strict=True):
        message[code] += torch.cat([torch.ones(1), row])
    for rank in range(2):
        layer, group, shard = make_layer(), Whole(rank, 2), Shard(6, rank, 2)
        object.__setattr__(group, "rows", z)
        object.__setattr__(group, "told", torch.cat([torch.tensor([3.0]), message.flatten()]))
        layer.update = SharedUpdate(group, shard)
        torch.manual_seed(2)
        result = layer(z[shard.rows])
        assert torch.equal(result.ids, ids[shard.rows])
        assert len(layer.update.seen) == 1
        before = layer.codebook.clone()
        settle = begin_move(layer.update, {"loss": torch.tensor(1.0)})
        assert torch.equal(layer.codebook, before)
        assert settle() == {"loss": torch.tensor(1.5)}  # the mean of two
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(layer.state_dict()[name], value, msg=name)


def test_a_process_without_rows_reports_nothing() -> None:
    messages: list[Tensor] = []

    class Listening(ProcessGroup):
        def begin_sum(self, own: Tensor) -> Callable[[], Tensor]:
            messages.append(own.clone())
            return lambda: own

    for rank, share in ((0, 1.0), (1, 0.0)):
        layer, group = VectorQuantiser(8, 4), Listening(rank, 2)
        layer.update = SharedUpdate(group, Shard(1, rank, 2))
        layer(torch.randn(1, 5, 4))
        begin_move(layer.update, {})()
        assert messages[rank].view(8, 5)[:, 0].sum() == 5 * share


def test_alone_the_recipe_learns_itself() -> None:
    class Recipe:
        def learn(self, batch: Tensor) -> dict[str, Tensor]:
            return {}

    recipe = Recipe()
    with shared(recipe, ALONE) as step:
        assert step.learn == recipe.learn
        losses = {"loss": torch.ones(())}
        assert step.settle(losses) is losses


MEMBER = """
import atexit, sys
from torch import distributed as dist
from edge_ad.utils.supervision import leave

class Traced:
    def __del__(self):
        print("taken down")

traced = Traced()
atexit.register(print, "exit functions")
if sys.argv[1] == "member":
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
leave(3)
"""


@pytest.mark.parametrize(
    ("member", "printed"), [("member", ["exit functions"]), ("alone", ["exit functions", "taken down"])]
)
def test_a_process_of_a_group_leaves_without_taking_python_down(member: str, printed: list[str]) -> None:
    """gloo's threads outlive their group; one of them that wants Python then ends the process with SIGABRT."""
    done = subprocess.run(
        [sys.executable, "-c", MEMBER, member], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.splitlines()) == (3, printed), done.stderr


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def two_processes(goods: Path, out: Path, stage: str, number: int) -> list[tuple[int, str]]:
    """Train in two processes, the second of which sends itself a signal in a stage; return exit codes and stderr."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    arguments = [sys.executable, "-c", TRAINING, str(goods), str(out), stage, str(number)]
    running = [
        subprocess.Popen(
            arguments, env=environment(**place, RANK=str(rank)), cwd=out.parent, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    messages = [process.communicate(timeout=300)[1] for process in running]
    return [(process.returncode, text) for process, text in zip(running, messages, strict=True)]


def assert_same_training(found: Path, trained: Trained) -> None:
    """The scores that the two bundles gave to the same images agree, and so do their weights of branches."""
    bundle, expected = open_bundle(found), open_bundle(trained.bundle)
    for split, rows in expected.raw_scores.items():
        np.testing.assert_allclose(bundle.raw_scores[split], rows, rtol=2e-3, atol=2e-3, err_msg=split)
    assert bundle.report["goods"] == expected.report["goods"]
    for stage in ("tokenizer", "lavit", "efficientad"):
        assert bundle.report[stage]["loss"] == pytest.approx(expected.report[stage]["loss"], rel=1e-4)
        ours, theirs = bundle.report[stage]["means"], expected.report[stage]["means"]
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6), stage
    assert bundle.report["efficientad"]["margin"] == pytest.approx(expected.report["efficientad"]["margin"], rel=1e-3)


def torchrun(goods: Path, out: Path) -> subprocess.CompletedProcess[str]:
    script = out.parent / "training.py"
    script.write_text(TRAINING)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    return subprocess.run(
        [sys.executable, *command, str(goods), str(out), "none", "0"],
        env=environment(), cwd=out.parent, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_what_one_trains_through_kill_and_sigterm(trained: Trained, tmp_path: Path) -> None:
    """SIGKILL of one process in the second network, SIGTERM of one in the third; torchrun goes on to the end."""
    out = tmp_path / "run"
    first, second = two_processes(trained.goods, out, "lavit", signal.SIGKILL)
    assert second[0] == -signal.SIGKILL
    assert first[0] == 3, first[1]
    assert "error: process 0 of 2 lost the others while training lavit" in first[1]
    assert (out / "state" / "lavit.pt").exists()
    assert list(out.glob("*.edgead")) == []
    first, second = two_processes(trained.goods, out, "efficientad", signal.SIGTERM)
    assert (first[0], second[0]) == (130, 130), first[1] + second[1]
    assert "lavit: resumed at step 1" in first[1]
    assert "stopped at step 2 of efficientad" in first[1]
    assert "resumed" not in second[1]
    done = torchrun(trained.goods, out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(out / "goods.edgead")]
    assert done.stderr.count("trained in") == 1
    assert sorted(path.name for path in out.iterdir()) == [LOCK, "facts.json", "goods.edgead", "train.jsonl"]
    assert_same_training(out / "goods.edgead", trained)
