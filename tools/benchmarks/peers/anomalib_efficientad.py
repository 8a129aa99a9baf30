"""anomalib's EfficientAD-S, trained by its own engine with batches of 1 as published; runs in anomalib's environment.

The teacher is our `pdn_small` (its own weights are not on the package index); images of other things come from --photos.
"""

import os
import time
from pathlib import Path

from common import SIDE, Course, auroc, main, read, splits, tensor

STATE = "model.pt"
GRAPH = Path("weights/onnx/model.onnx")
CHECKPOINT, CLOCK = "course.ckpt", "course.json"
SAVE_EVERY = 100  # steps


def _model(**options):
    from anomalib.models import EfficientAd

    return EfficientAd(model_size="small", evaluator=False, visualizer=False, post_processor=False, **options)


def _measure(model, paths):
    """Set the quantiles of the maps from unseen normal images and return the AUROC of the test images, by anomalib's own score."""
    import torch

    model.eval()
    with torch.no_grad():
        maps = [model.model.get_maps(tensor(image), normalize=False) for image in read(paths["unseen"])]
        for number, name in enumerate(("st", "ae")):
            low, high = model._get_quantiles_of_maps([pair[number] for pair in maps])
            model.model.quantiles[f"qa_{name}"].data, model.model.quantiles[f"qb_{name}"].data = low, high
        scores = {
            kind: [float(model.model(tensor(image)).pred_score) for image in read(paths[kind])]
            for kind in ("good", "bad")
        }
    model.train()
    return auroc(scores["good"], scores["bad"])


def learn(options):
    """Train until the minutes are used up, reading the AUROC now and then with the clock standing still.

    What was interrupted goes on from its last checkpoint.
    """
    import torch
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from lightning.pytorch.callbacks import Callback

    paths = splits(options.data)
    course, checkpoint, clock = Course(options.minutes), options.out / CHECKPOINT, options.out / CLOCK
    if clock.exists():
        course.resume(clock)

    class Watch(Callback):
        began, running = time.perf_counter(), False

        def on_train_batch_start(self, trainer, module, batch, index):
            if not course.steps:
                course.used = time.perf_counter() - self.began  # channel statistics of the teacher
            if not self.running:
                self.running, course.began = True, time.perf_counter()

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if course.step():
                course.reading(_measure(module, paths))
            if len(course.steps) % SAVE_EVERY == 0:
                trainer.save_checkpoint(f"{checkpoint}.new")
                os.replace(f"{checkpoint}.new", checkpoint)
                course.save(clock)
                course.began = time.perf_counter()
            trainer.should_stop = course.over

    model = _model(imagenet_dir=options.photos)
    model.prepare_pretrained_model = lambda: model.model.teacher.load_state_dict(
        torch.load(options.teacher, weights_only=True)
    )
    datamodule = Folder(
        "peer", "train/good", root=Path(options.data).resolve(), normal_test_dir="test/good",
        train_batch_size=1, eval_batch_size=1, num_workers=0, test_split_mode="from_dir", val_split_mode="none",
    )  # fmt: skip
    engine = Engine(
        max_steps=70_000, max_epochs=-1, limit_val_batches=0, num_sanity_val_steps=0, logger=False,
        enable_progress_bar=False, accelerator="cpu", devices=1, callbacks=[Watch()],
        default_root_dir=options.out / "lightning",
    )  # fmt: skip
    Watch.began = time.perf_counter()
    engine.fit(model, datamodule=datamodule, ckpt_path=checkpoint if clock.exists() else None)
    model.eval()
    torch.save(model.model.state_dict(), options.out / STATE)
    model.to_onnx(options.out, input_size=(SIDE, SIDE))
    return {"steps_ms": course.steps, "curve": course.curve, "batch": 1}


def scorer(out, form):
    """Return a function from an image to its score, by the torch module or by its ONNX graph in onnxruntime."""
    if form == "onnx":
        import numpy as np
        import onnxruntime

        session = onnxruntime.InferenceSession(str(out / GRAPH), providers=["CPUExecutionProvider"])

        def by_graph(image):
            pixels = np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32) / 255.0
            return float(session.run(["pred_score"], {"input": pixels})[0].reshape(-1)[0])

        return by_graph
    import torch

    model = _model().model.eval()
    model.load_state_dict(torch.load(out / STATE, weights_only=True))

    def by_module(image):
        with torch.inference_mode():
            return float(model(tensor(image)).pred_score)

    return by_module


if __name__ == "__main__":
    main(learn, scorer)
