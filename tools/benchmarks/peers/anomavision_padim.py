"""anomavision's PaDiM on ResNet-18; runs in its own environment.

The package index has no weights of ResNet-18, so they are random: times and memory stand, an AUROC would say nothing.
"""

import time

from common import main, read, splits, tensor

STATE = "padim.pt"


def _padim():
    import torch
    from anomavision import Padim
    from anomavision.algorithm.common import feature_extraction

    torch.manual_seed(0)
    build, _ = feature_extraction.BACKBONES["resnet18"]
    feature_extraction.BACKBONES["resnet18"] = (build, None)
    return Padim("resnet18", device=torch.device("cpu"), layer_indices=[0, 1], feat_dim=50)


def learn(options):
    """Measure mean and covariance of every patch."""
    import torch

    model = _padim()
    started = time.perf_counter()
    images = torch.cat([tensor(image, normalised=True) for image in read(splits(options.data)["train"])])
    model.fit([(batch, None, None, None) for batch in images.split(8)])
    seconds = time.perf_counter() - started
    torch.save(model.state_dict(), options.out / STATE)
    return {"train_s": round(seconds, 1)}


def scorer(out, form):
    """Return a function from an image to its score."""
    import torch
    from anomavision.algorithm.common.mahalanobis import MahalanobisDistance

    state = torch.load(out / STATE, weights_only=True)
    model = _padim()
    model.mahalanobisDistance = MahalanobisDistance(
        state["mahalanobisDistance._mean_flat"], state["mahalanobisDistance._cov_inv_flat"]
    )
    model.load_state_dict(state)
    model.eval()

    def score(image):
        with torch.inference_mode():
            return float(model.predict(tensor(image, normalised=True))[0])

    return score


if __name__ == "__main__":
    main(learn, scorer)
