"""What image files show, in words, numbers and pictures."""
