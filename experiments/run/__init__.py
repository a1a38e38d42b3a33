"""One run of Table 1: its plan and cost, its stages, the programs it starts."""
