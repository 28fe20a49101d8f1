"""The fault campaign: its kinds of fault, the rig that they run on, and the truth to compare."""
