"""edge-ad beside the peers: EfficientAD alone with its course of training, and the bundle of preset `fast`, whole and by branch.

A form is what runs and its precision: ``whole-fp32``, ``whole-int8``, ``efficientad-fp32`` (local + global), or a branch.
"""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import Course, auroc, main, read, splits

PRESET = "fast"
TOP = 10  # cells of a map whose mean is the score, as the fusion graph of the preset takes them


def learn(options):
    """Train what --form names: ``efficientad`` in this process, or ``whole`` by the command line."""
    return _learn_whole(options) if options.form == "whole" else _learn_efficientad(options)


def _learn_efficientad(options):
    """Train teacher statistics, student and autoencoder as in the preset; the clock stands still for each reading."""
    import torch

    from edge_ad.data.datasets import load_dataset
    from edge_ad.models.build import build_efficientad
    from edge_ad.presets.presets import preset_named
    from edge_ad.training.images import load_images
    from edge_ad.training.loop import choose_arithmetic, fit
    from edge_ad.training.recipes import EfficientADRecipe
    from edge_ad.training.run_folder import RunFolder
    from edge_ad.training.teacher import load_teacher, measure_channels
    from edge_ad.utils.progress import Progress

    preset = preset_named(PRESET)
    arithmetic = choose_arithmetic(preset.low_precision)
    pictures = load_images(load_dataset(Path(options.data), 0), preset.image_side, 1, 0)
    paths = splits(options.data)
    test = {kind: read(paths[kind], preset.image_side) for kind in ("good", "bad")}
    course = Course(options.minutes)
    teacher = load_teacher(preset, None, arithmetic.device)
    measure_channels(teacher, pictures.fit, arithmetic.device)
    torch.manual_seed(0)
    model = build_efficientad(preset, teacher.channels)

    class Watched(EfficientADRecipe):
        begun = False

        def learn(self, batch):
            if self.begun and course.step():
                course.reading(_measure(self, pictures.normalise, test))
            self.begun = True
            return super().learn(batch)

    recipe = Watched(model, teacher, preset, pictures.fit, unseen=pictures.normalise, others=None, arithmetic=arithmetic)
    schedule = recipe.schedule
    folder = RunFolder(options.out / "run")
    folder.begin("compare")
    fit(recipe, options.steps or schedule.steps, folder, 0, progress=Progress())
    course.step()
    course.reading(_measure(recipe, pictures.normalise, test))
    folder.finish()
    return {"steps_ms": course.steps, "curve": course.curve, "batch": schedule.batch, "arithmetic": arithmetic.name}


def _measure(recipe, unseen, test):
    """Return the AUROC of local + global, each normalised by unseen normal images."""
    import torch

    from edge_ad.training.augment import to_pixels

    def raw(images):
        rows = []
        with torch.no_grad():
            for start in range(0, len(images), 8):
                pixels = to_pixels(images[start : start + 8], recipe.arithmetic.device)
                maps = recipe.model(pixels, recipe.teacher(pixels).features)
                rows.append(torch.stack([one.flatten(1).topk(TOP).values.mean(dim=1) for one in maps], dim=1).cpu())
        return torch.cat(rows).double().numpy()

    recipe.model.eval()
    goods = raw(unseen)
    scores = {kind: ((raw(images) - goods.mean(0)) / goods.std(0)).mean(1) for kind, images in test.items()}
    recipe.model.train()
    return auroc(scores["good"], scores["bad"])


def _learn_whole(options):
    """Train all methods by `edge-ad train`, then build and prove the INT8 engines."""
    started, note = time.perf_counter(), options.out / "trained.txt"
    if not note.exists():
        steps = ["--steps", str(options.steps)] if options.steps else []
        _edge_ad("train", options.data, "--preset", PRESET, "--geometry", "square", "--out", options.out / "bundle", *steps)
        note.write_text(f"{time.perf_counter() - started:.1f}\n")
    (bundle,) = sorted((options.out / "bundle").glob("*.edgead"))
    gate = _build_int8(bundle)
    from edge_ad.bundle import open_bundle

    opened = open_bundle(bundle)
    return {
        "train_s": float(note.read_text()),
        "int8_gate": gate,
        "masks": len(opened.masks),
        "weights": [round(float(weight), 3) for weight in opened.statistics.weight],
    }


def _build_int8(bundle):
    """Build and prove INT8 engines; where the gate refuses and names a plan that passes, take it as a person would."""
    build, plan = (
        ("build-engine", bundle, "--int8", "--backend", "onnxruntime"),
        Path(f"{bundle}.engines/plan-cpu.json"),
    )
    if _edge_ad(*build, allowed=(0, 4)) == 0:
        return "passed"
    if plan.exists() and _edge_ad(*build, "--plan", plan, allowed=(0, 4)) == 0:
        return "passed with the plan that it named"
    return "refused"


def _edge_ad(*words, allowed=(0,)):
    done = subprocess.run([sys.executable, "-m", "edge_ad", *map(str, words)], check=False)
    if done.returncode not in allowed:
        raise SystemExit(f"edge-ad {words[0]} ended with exit code {done.returncode}")
    return done.returncode


def scorer(out, form):
    """Return a function from an image to its score by the engines of the bundle, as `edge-ad run` would ask them."""
    from edge_ad.bundle import open_bundle
    from edge_ad.engines.pipeline import Pipeline

    part, _, precision = form.rpartition("-")
    bundle = open_bundle(sorted((out / "bundle").glob("*.edgead"))[0])
    if part != "whole":
        chosen = ("local", "global") if part == "efficientad" else (part,)
        weight = np.array([branch in chosen for branch in bundle.statistics.branches], np.float32)
        bundle.statistics = replace(bundle.statistics, weight=weight / weight.sum())
    pipeline = Pipeline(bundle, precision=precision)
    return lambda image: pipeline.infer(image).score


if __name__ == "__main__":
    main(learn, scorer)
