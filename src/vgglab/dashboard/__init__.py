"""Callbacks that draw for TensorBoard, and TensorBoard itself: shown, and photographed."""
