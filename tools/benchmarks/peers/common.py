"""What every contender's script shares: the images, AUROC, clocks and memory. NumPy and Pillow, and torch in `tensor` alone."""

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

import numpy as np

SIDE = 256
PAUSE = 10.0  # a step that takes so many usual ones was interrupted: the process was stopped, or the machine slept
BRIGHT = (".png", ".jpg", ".jpeg", ".bmp")


def pictures(folder):
    """Return the paths of the images directly in a folder, sorted; none where there is no folder."""
    folder = Path(folder)
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in BRIGHT) if folder.is_dir() else []


def splits(data):
    """Return the paths of a set in LOCO or MVTec layout: train, unseen (normal images beside the test), good and bad."""
    data = Path(data)
    bad = [path for kind in sorted((data / "test").iterdir()) if kind.name != "good" for path in pictures(kind)]
    train, unseen = pictures(data / "train" / "good"), pictures(data / "validation" / "good")
    if not unseen:
        train, unseen = train[: -len(train) // 5], train[-len(train) // 5 :]
    return {"train": train, "unseen": unseen, "good": pictures(data / "test" / "good"), "bad": bad}


def read(paths, side=SIDE):
    """Return images as u8 [N, side, side, 3] RGB."""
    from PIL import Image

    resized = (Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR) for path in paths)
    return np.stack([np.asarray(image, np.uint8) for image in resized])


def tensor(image, normalised=False):
    """Return an image u8 [H, W, 3] as f32 [1, 3, H, W] of 0 to 1, or ``normalised`` by ImageNet's mean and deviation."""
    import torch

    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0
    if not normalised:
        return pixels
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (pixels - mean) / std


def auroc(good, bad):
    """Return the chance that a bad image scores higher than a good one, ties by half."""
    good, bad = np.asarray(good, float)[None, :], np.asarray(bad, float)[:, None]
    return float((bad > good).mean() + 0.5 * (bad == good).mean())


def peak_mb():
    """Return the largest resident memory of this process so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), 1)


def quantiles(milliseconds):
    """Return count, p50, p90, p99 and max."""
    values = np.asarray(milliseconds, float)
    shares = {f"p{share}": float(np.percentile(values, share)) for share in (50, 90, 99)}
    return {
        "frames": len(values),
        **{name: round(value, 3) for name, value in shares.items()},
        "max": float(values.max()),
    }


def timed(score, images, frames, warm=10):
    """Return the milliseconds of ``score(image)`` over ``frames`` images in turn, after ``warm`` that do not count."""
    times = []
    for turn in range(warm + frames):
        started = time.perf_counter()
        score(images[turn % len(images)])
        times.append((time.perf_counter() - started) * 1000.0)
    return times[warm:]


class Course:
    """A clock of training that stands still while the AUROC is read, at times that double.

    A step in which the process was stopped counts as a usual one, so that a training of hours may give way to other work.
    """

    def __init__(self, minutes):
        self.limit, self.used, self.steps, self.curve = minutes * 60.0, 0.0, [], []
        self.next_reading, self.began = min(30.0, self.limit), time.perf_counter()

    def step(self):
        """Count one step that has just ended; return whether it is time to read the AUROC."""
        now = time.perf_counter()
        took = now - self.began
        if len(self.steps) >= 20 and took * 1000.0 > PAUSE * (usual := median(self.steps[-200:])):
            took = usual / 1000.0
        self.steps.append(took * 1000.0)
        self.used += took
        self.began = now
        return self.used >= self.next_reading or self.over

    @property
    def over(self):
        """Whether the time is used up."""
        return self.used >= self.limit

    def reading(self, value):
        """Note an AUROC; the clock goes on from here."""
        self.curve.append([round(self.used, 1), len(self.steps), round(value, 4)])
        while self.next_reading <= self.used:
            self.next_reading *= 2.0
        self.next_reading = min(self.next_reading, self.limit)
        self.began = time.perf_counter()
        print(f"{self.used:.0f} s, step {len(self.steps)}: AUROC {value:.4f}", flush=True)

    def save(self, path):
        """Write the clock's stand to a file."""
        write(path, {"used": self.used, "steps": self.steps, "curve": self.curve, "next_reading": self.next_reading})

    def resume(self, path):
        """Go on from a stand that `save` wrote."""
        for name, value in json.loads(Path(path).read_text()).items():
            setattr(self, name, value)
        self.next_reading, self.began = min(self.next_reading, self.limit), time.perf_counter()


def write(path, values):
    """Write JSON, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    os.replace(temporary, path)


def main(learn, scorer):
    """Run the command of a contender.

    ``learn --data D --out O --minutes M`` trains and writes O/learn.json; ``speed --out O --form F --data D
    --frames N`` times ``scorer(out, form)``, a function from a u8 [256, 256, 3] image to its score, and writes
    O/speed-F.json; ``start --out O --form F --data D`` prints one score as soon as it can.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["learn", "speed", "start"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--form", default="torch")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--photos")
    parser.add_argument("--teacher")
    parser.add_argument("--backbone")
    parser.add_argument("--steps", type=int, default=0, help="a trial: fewer steps")
    options = parser.parse_args()
    if options.command == "learn":
        options.out.mkdir(parents=True, exist_ok=True)
        result = learn(options)
        write(options.out / "learn.json", {**result, "peak_mb": peak_mb()})
        return
    paths = splits(options.data)
    score = scorer(options.out, options.form)
    if options.command == "start":
        print(f"score {score(read(paths['good'][:1])[0]):.6f}", flush=True)
        return
    times = timed(score, read(paths["good"][:8]), options.frames)
    memory = peak_mb()
    good, bad = ([score(image) for image in read(paths[name])] if paths[name] else [] for name in ("good", "bad"))
    result = {"latency_ms": quantiles(times), "peak_mb": memory, "auroc": auroc(good, bad) if good and bad else None}
    write(options.out / f"speed-{options.form}.json", result)
