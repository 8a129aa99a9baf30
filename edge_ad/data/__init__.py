"""Datasets on disk: folders, images, splits, near-duplicates, synthetic anomalies made from normal images.

No networks, no cameras. Used by everything that reads images.
"""
