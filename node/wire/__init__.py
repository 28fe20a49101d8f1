"""Wire: the messages, and the socket that broadcasts them. Imports neither torch nor cv2."""
