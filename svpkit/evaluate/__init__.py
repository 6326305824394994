"""Classes to evidence: scores, their intervals, and what they rest on."""
