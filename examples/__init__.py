"""Programs to copy and adapt; no package of the product imports them, and no wheel holds them."""
