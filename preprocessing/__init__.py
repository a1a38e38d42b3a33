"""Voxels: from a site's CT files to patches. Knows nothing about networks or rounds."""
