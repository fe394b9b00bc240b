"""Pictures of what people see, for the README."""
