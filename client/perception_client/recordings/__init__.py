"""Recordings: reads the MCAP files of nodes, also those that were cut off or damaged. The extra
`recordings` installs what it needs."""
