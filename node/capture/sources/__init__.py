"""Sources: one file for each kind of source, behind one Protocol."""
