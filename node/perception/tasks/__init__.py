"""Tasks: from a network's outputs to labels, detections and areas."""
