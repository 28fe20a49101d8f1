"""Transport: the sockets that the node binds, publisher and control, and the limits of their
clients."""
