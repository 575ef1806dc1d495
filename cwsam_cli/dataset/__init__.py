"""Datasets: `dataset.yaml`, tiles as samples, augmentation."""
