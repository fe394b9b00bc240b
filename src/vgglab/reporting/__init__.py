"""What people see of a run: its history, TensorBoard, the terminal and its own page."""
