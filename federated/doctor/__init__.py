"""The doctor: checks of kit, folders and network, each with a finding and a remedy."""
