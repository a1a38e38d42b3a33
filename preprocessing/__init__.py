"""Voxels: from a site's CT files to patches. Knows no network and no rounds."""
