"""Weights with what made them: save, read, load with a report."""
