"""From trained networks to the ONNX graphs of a bundle, each checked against torch.

Needs torch. Used by ``training`` alone.
"""
