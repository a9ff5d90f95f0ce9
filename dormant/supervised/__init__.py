"""Classification of images with fixed or shuffled labels: image sets, a network, and its training."""
