"""vgglab: a PyTorch Lightning and Hydra research template for VGG networks (arXiv 1409.1556)."""
