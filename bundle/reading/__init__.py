"""Blinded readings: whether people tell synthetic patches from real ones, and whether they see the class asked for."""
