"""anomalib's PatchCore on EfficientNet-Lite0, the backbone that both sides have weights of; runs in anomalib's environment."""

import time

from common import main, read, splits, tensor

BACKBONE, LAYERS = "tf_efficientnet_lite0", ["blocks.2", "blocks.4"]  # strides 8 and 16, as of its default backbone
CORESET = 0.01  # the smallest of the publication; a tenth, the default, takes hours on two cores and is slower to ask
STATE = "model.pt"


def _model():
    from anomalib.models import Patchcore

    plain = {"pre_processor": False, "post_processor": False, "evaluator": False, "visualizer": False}
    return Patchcore(backbone=BACKBONE, layers=LAYERS, pre_trained=False, coreset_sampling_ratio=CORESET, **plain)


def _load_backbone(model, weights):
    """Fill timm's network from the published state dict: other names, the same tensors in the same order."""
    import torch

    published = list(torch.load(weights, weights_only=True).values())
    own = model.model.feature_extractor.feature_extractor.state_dict()
    if any(value.shape != theirs.shape for value, theirs in zip(own.values(), published, strict=False)):
        raise SystemExit(f"{weights} does not fit {BACKBONE}")
    model.model.feature_extractor.feature_extractor.load_state_dict(dict(zip(own, published, strict=False)))


def learn(options):
    """Gather the memory of normal images and thin it out to a hundredth."""
    import torch

    model = _model()
    _load_backbone(model, options.backbone)
    started = time.perf_counter()
    model.model.train()
    model.model.feature_extractor.eval()
    with torch.no_grad():
        for image in read(splits(options.data)["train"]):
            model.model(tensor(image, normalised=True))
    model.fit()
    seconds = time.perf_counter() - started
    torch.save(model.model.state_dict(), options.out / STATE)
    return {"train_s": round(seconds, 1), "memory": list(model.model.memory_bank.shape), "coreset": CORESET}


def scorer(out, form):
    """Return a function from an image to its score."""
    import torch

    state = torch.load(out / STATE, weights_only=True)
    model = _model().model.eval()
    model.memory_bank = torch.empty_like(state["memory_bank"])
    model.load_state_dict(state)

    def score(image):
        with torch.inference_mode():
            return float(model(tensor(image, normalised=True)).pred_score)

    return score


if __name__ == "__main__":
    main(learn, scorer)
