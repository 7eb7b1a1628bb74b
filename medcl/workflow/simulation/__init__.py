"""Simulated patients with several linked modalities, and exact small trees of the layouts of credentialed data sets."""
