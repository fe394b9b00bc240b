"""Descriptors of images, and a linear classifier on them: appendix B of the paper."""
