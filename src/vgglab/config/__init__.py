"""The typed schema of conf/, its validation, and errors for people."""
