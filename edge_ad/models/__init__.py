"""The networks, as published: HVQ-Trans, LAViT, EfficientAD with DFSC, the teachers.

Plain torch modules: no files, no images, no training. Used by ``export`` and ``training``.
"""
