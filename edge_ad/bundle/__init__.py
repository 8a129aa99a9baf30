"""The .edgead file, the only door between training and the edge: graphs, statistics and proof, every member hashed."""

from edge_ad.bundle.contents import SCHEMA, BundleContents, Golden, Quantisation
from edge_ad.bundle.file import SUFFIX, Bundle, child_path, open_bundle, write_bundle
from edge_ad.bundle.graphs import GRAPHS
from edge_ad.bundle.references import References

__all__ = [
    "GRAPHS",
    "SCHEMA",
    "SUFFIX",
    "Bundle",
    "BundleContents",
    "Golden",
    "Quantisation",
    "References",
    "child_path",
    "open_bundle",
    "write_bundle",
]
