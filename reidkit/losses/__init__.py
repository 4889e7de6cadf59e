"""The losses of the papers, one file each."""
