"""Judge images by the file of `edge-ad export`: python judge.py part.onnx image.png ... (onnxruntime and OpenCV)."""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize as edge-ad does: area where the image shrinks, linear where it grows."""
    smaller = (min(image.shape[1], width), min(image.shape[0], height))
    return cv2.resize(cv2.resize(image, smaller, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_LINEAR)


session = onnxruntime.InferenceSession(sys.argv[1])
_, height, width, _ = session.get_inputs()[0].shape
locates = json.loads(session.get_modelmeta().custom_metadata_map["edge_ad.geometry"])["locates"]
for path in sys.argv[2:]:
    image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    if locates and image.shape[:2] != (height, width):
        sys.exit(f"error: this model takes a part that was located and cut out upright, {width} x {height} pixels")
    score, verdict = session.run(["score", "verdict"], {"image": resize(image, height, width)[None]})  # and "map", "z"
    print(f"{path} {score[0]:.6f} {('OK', 'WARN', 'NG')[verdict[0]]}")
