"""Named arrays: what a model is here, how it is written to disk, and how its bytes are encoded."""
