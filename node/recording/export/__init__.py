"""Export: recordings as video, pictures, JSON lines, a dataset or a ROS 2 bag."""
