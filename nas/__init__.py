"""Hardware-cost-aware search of a segmentation and a quality-control network."""
