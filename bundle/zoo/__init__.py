"""The bundle as the MONAI Model Zoo distributes it: a folder and a zip with weights, and what was measured of them."""
