"""Read datasets: `dataset.yaml`, tiles as samples, augmentation."""
