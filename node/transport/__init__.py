"""Transport: the sockets that the node binds: publisher, control, and what strangers may cost
there."""
