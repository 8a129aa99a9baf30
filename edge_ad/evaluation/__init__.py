"""How good a bundle is on labelled images: scores, AUROC, sPRO, robustness, the report.

Reads bundles and writes reports; changes nothing. Used by ``demo`` and the command line.
"""
