"""The doctor: checks of kit, folders and network, each ending in one finding with its remedy."""
