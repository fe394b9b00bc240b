"""Chunks of encoded images: written once, streamed from a disk or from object storage."""
