"""Data in: readers' particles on disk, split and locked."""
