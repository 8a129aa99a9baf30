"""Train every category under a root on a Ray cluster: `python tools/ray_train.py ROOT --out RUNS [--cpus 2] [--gpus 0] -- FLAGS`.

FLAGS are those of `edge-ad train`. Without --address Ray starts on this machine. Each category is a task of its own; one
whose machine or process goes away is started again, anywhere, and goes on from its checkpoint. So every machine must see
ROOT and RUNS under the same path. The same command again trains only what is not finished.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_ad.data.datasets import find_categories
from edge_ad.errors import BadInput, EdgeAdError

RETRIES = 5


def train_part(part: str, arguments: list[str]) -> None:
    """Run `edge-ad train` on one part of the categories; ValueError for what another try cannot mend."""
    from edge_ad.cli.app import main as edge_ad

    code = edge_ad([*arguments, "--part", part])
    if code:
        message = f"edge-ad {' '.join(arguments)} --part {part} ended with exit code {code}"
        raise ValueError(message) if code == BadInput.exit_code else RuntimeError(message)


def run(options: argparse.Namespace) -> int:
    """Start one task a category and return how many of them failed."""
    try:
        import ray
    except ImportError as error:
        raise BadInput(f"tools/ray_train.py needs Ray ({error}): pip install ray") from error
    categories = find_categories(options.root)
    if not categories:
        raise BadInput(f"{options.root} holds no category with train/good: name the folder above the categories")
    arguments = ["train", str(options.root.resolve()), "--each", "--out", str(options.out.resolve()), *options.flags]
    ray.init(address=options.address, num_cpus=None if options.address else options.machine_cpus)
    # A process a task: what a training leaves in memory goes with it.
    task = ray.remote(max_calls=1)(train_part).options(
        num_cpus=options.cpus, num_gpus=options.gpus, max_retries=RETRIES, retry_exceptions=[RuntimeError]
    )
    waiting = {
        task.remote(f"{number}/{len(categories)}", arguments): path.name
        for number, path in enumerate(categories, start=1)
    }
    failed = 0
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        name = waiting.pop(done)
        try:
            ray.get(done)
            print(f"{name}: trained, {len(waiting)} left", flush=True)
        except ray.exceptions.RayError as error:
            failed += 1
            print(f"{name}: {str(error).strip().splitlines()[-1]}", file=sys.stderr, flush=True)
    ray.shutdown()
    return failed


def main() -> int:
    """Read the command line and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--cpus", type=float, default=2, help="processors of one training")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of one training, or a part of one")
    parser.add_argument("--address", help="of a running cluster, for example auto")
    parser.add_argument(
        "--machine-cpus", type=int, help="processors that Ray may use where it starts here (default: all)"
    )
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:cut])
    options.flags = given[cut + 1 :]
    try:
        return 1 if run(options) else 0
    except EdgeAdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
