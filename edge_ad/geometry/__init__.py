"""Find the part in an image and cut it out upright: poses, locators, and the way back into the original image.

NumPy and OpenCV only. A locator is learned from normal images by ``fit_geometry`` and stored as plain data.
"""
