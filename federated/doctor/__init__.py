"""The doctor: checks of kit, folders and network; each says what it found and what to do."""
