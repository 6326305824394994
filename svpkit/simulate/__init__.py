"""The embedded data set: particles drawn by physics, with the truth of each kept."""
