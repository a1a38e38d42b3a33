"""One run of Table 1: its plan and estimated cost, its stages, and the programs it starts."""
