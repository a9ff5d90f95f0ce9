"""Classification of images, with labels that stay or change: image sets, a network, and its training."""
