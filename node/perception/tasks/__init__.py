"""Tasks: turn a network's outputs into labels, detections and areas."""
